"""Recorded attention: it is that of the model, whatever the mode, size, backend and dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import transnext_ops as ops
from transnext_models import TransNeXt, create_model
from transnext_models.layers import attention
from transnext_models.seeing import AttentionRecord, record_attention

SMALL: dict[str, Any] = {
    "embed_dims": (24, 48, 72, 96),
    "num_heads": (1, 2, 3, 4),
    "depths": (1, 1, 2, 1),
    "num_classes": 5,
    "img_size": 64,
    "pretrain_size": 64,
}
MODES: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "as trained": ({}, (64, 64)),
    "odd size": ({}, (97, 75)),
    "linear": ({"fixed_pool_size": 2}, (96, 128)),
    "interpolated": ({"position_bias": "interpolate"}, (128, 96)),
    "interpolated maps": ({"features_only": True, "num_classes": 0}, (70, 130)),
    "length of training": ({"length_scaling": "training"}, (128, 100)),
    "window beyond the grid": ({"window_size": 7}, (64, 64)),
    "pixel-focused": ({"attention": "pixel_focused"}, (64, 96)),
    "aggregated in every stage": ({"sr_ratios": (8, 4, 2, 2)}, (96, 96)),
    "one token at last": ({}, (32, 32)),
}


def build(**changes: Any) -> TransNeXt:
    """Return a model whose parameters are all away from their initial values."""
    torch.manual_seed(3)
    model = TransNeXt(**{**SMALL, **changes}).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def picture(size: tuple[int, int]) -> Tensor:
    return torch.randn(3, *size, generator=torch.Generator().manual_seed(5))


def outputs_of_attention(model: TransNeXt, image: Tensor) -> dict[tuple[int, int], Tensor]:
    """Return what each attention hands to its output projection, ``[N, C]``."""
    taken = {}
    handles = []
    for number, stage in enumerate(model.stages(), start=1):
        for index, block in enumerate(stage.blocks):

            def hook(_: Any, inputs: tuple[Tensor], at: tuple[int, int] = (number, index)) -> None:
                taken[at] = inputs[0][0]

            handles.append(block.attn.proj.register_forward_pre_hook(hook))
    with torch.no_grad():
        model(image[None])
    for handle in handles:
        handle.remove()
    return taken


def largest_error(record: AttentionRecord, expected: dict[tuple[int, int], Tensor]) -> float:
    """Return the largest error of a recomputed block relative to its largest value."""
    errors = []
    for info in record.blocks:
        block = record.recorded(info.stage, info.block)
        rows, columns = torch.meshgrid(*map(torch.arange, info.grid), indexing="ij")
        out = block.output(rows.flatten(), columns.flatten()).flatten(1).double()
        value = expected[info.stage, info.block].double()
        errors.append(float((out - value).abs().max() / value.abs().max()))
    return max(errors)


@pytest.mark.parametrize("backend", [None, "torch", "reference"])
@pytest.mark.parametrize("mode", MODES)
def test_outputs_follow_from_the_weights(mode: str, backend: str | None) -> None:
    changes, size = MODES[mode]
    model, image = build(**changes, backend=backend), picture(size)
    record = record_attention(model, image)
    assert [(info.stage, info.block) for info in record.blocks] == [
        (1, 0), (2, 0), (3, 0), (3, 1), (4, 0),
    ]  # fmt: skip
    assert largest_error(record, outputs_of_attention(model, image)) <= 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_weights_sum_to_one(mode: str) -> None:
    changes, size = MODES[mode]
    record = record_attention(build(**changes), picture(size))
    for info in record.blocks:
        weights = record.weights(info.stage, info.block)
        keys = info.window**2 + info.pool_grid[0] * info.pool_grid[1]
        assert weights.shape == (info.heads, info.grid[0] * info.grid[1], keys)
        assert (weights.double().sum(-1) - 1).abs().max() <= 1e-6
        assert weights.min() >= 0


@pytest.mark.parametrize("mode", MODES)
def test_a_query_is_a_row_of_the_weights(mode: str) -> None:
    changes, size = MODES[mode]
    record = record_attention(build(**changes), picture(size))
    for info in record.blocks:
        height, width = info.grid
        for position in {
            (0, 0),
            (height // 2, width // 2),
            (height - 1, width - 1),
            (0, width - 1),
        }:
            query = record.query(info.stage, info.block, position)
            row = record.weights(info.stage, info.block)[:, position[0] * width + position[1]]
            flat = torch.cat((query.window.flatten(1), query.pooled.flatten(1)), 1)
            torch.testing.assert_close(flat, row, rtol=1e-5, atol=1e-7)
            assert (query.window[:, ~query.inside] == 0).all()
            density = query.densities()
            assert (density.sum((1, 2)) - 1).abs().max() <= 1e-6
            assert density.min() >= 0


def test_published_weights_give_the_published_error() -> None:
    """Over Tiny's blocks a prototype had 8e-7."""
    model = create_model("transnext_tiny").eval()
    image = picture((224, 224))
    record = record_attention(model, image)
    assert len(record.blocks) == 21
    assert largest_error(record, outputs_of_attention(model, image)) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    model, image = build().to(dtype), picture((64, 64))
    record = record_attention(model, image)
    tolerance = {torch.float64: 1e-6, torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]
    assert largest_error(record, outputs_of_attention(model, image.to(dtype))) <= tolerance
    weights = record.weights(3)
    assert (weights.double().sum(-1) - 1).abs().max() <= 1e-6


def test_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        record = record_attention(build(), picture((64, 64)))
    assert (record.weights(1).double().sum(-1) - 1).abs().max() <= 1e-6


# -- the model is left as it was ------------------------------------------------------------------


def hooks_of(model: TransNeXt) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


@pytest.mark.parametrize("frozen", [False, True])
def test_recording_leaves_outputs_and_model_alone(frozen: bool) -> None:
    model, image = build(), picture((64, 64))
    model.freeze(frozen)
    model.eval()
    with torch.no_grad():
        before = model(image[None])
    record = record_attention(model, image)
    assert len(record.blocks) == 5
    assert hooks_of(model) == 0
    torch.testing.assert_close(record.output, before[0], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(model(image[None]), before)


def test_hooks_go_when_the_model_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    monkeypatch.setattr(attention.GlobalAttention, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        record_attention(model, picture((64, 64)))
    assert hooks_of(model) == 0


def test_no_gradient_is_kept() -> None:
    record = record_attention(build(), picture((64, 64)).requires_grad_())
    for info in record.blocks:
        block = record.recorded(info.stage, info.block)
        tensors = [value for value in vars(block).values() if isinstance(value, Tensor)]
        assert not any(tensor.requires_grad for tensor in [*tensors, block.bias.table])


def test_changed_weights_are_recorded() -> None:
    """The record follows the weights in force, edits through ``.data`` too."""
    model, image = build(), picture((64, 64))
    before = record_attention(model, image).weights(3)
    model.block3[1].attn.cpb_fc2.weight.data.mul_(3)
    record = record_attention(model, image)
    assert not torch.equal(record.weights(3), before)
    assert largest_error(record, outputs_of_attention(model, image)) <= 1e-5


# -- images and mistakes --------------------------------------------------------------------------


def test_a_picture_goes_through_the_model_s_preprocessing() -> None:
    model = create_model("transnext_pico", pretrained=True).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    record = record_attention(model, Image.fromarray(pixels))
    assert record.image.shape == (3, 64, 64)
    assert record.output.shape == (10,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda record: record.query(5), r"stage: got 5, needs one of \[1, 2, 3, 4\]"),
        (lambda record: record.query(3, 2), "block: got 2, needs -2 to 1, of stage 3"),
        (
            lambda record: record.query(3, 0, (4, 0)),
            r"position: got \(4, 0\), needs .* 4 x 4 tokens",
        ),
        (lambda record: record.query(3, 0, (0, 0), pixel=(1, 1)), "pixel: got it together"),
        (lambda record: record.weights(1, limit=1000), "limit: got 1000 bytes, needs 13312"),
    ],
)
def test_mistakes_are_named(call: Any, message: str) -> None:
    record = record_attention(build(), picture((64, 64)))
    with pytest.raises(ValueError, match=message):
        call(record)


def test_models_and_images_that_do_not_fit() -> None:
    with pytest.raises(TypeError, match="model: got Linear, needs a TransNeXt"):
        record_attention(torch.nn.Linear(2, 2), picture((64, 64)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="model: got one in training mode"):
        record_attention(build().train(), picture((64, 64)))
    with pytest.raises(ValueError, match=r"image: got \(2, 3, 64, 64\), needs"):
        record_attention(build(), torch.zeros(2, 3, 64, 64))
    with pytest.raises(TypeError, match="image: got str"):
        record_attention(build(), "photo.jpg")  # type: ignore[arg-type]


def test_backends_agree() -> None:
    records = []
    for backend in ("torch", "cpp"):
        with ops.use_backend(backend):
            records.append(record_attention(build(), picture((64, 96))))
    for info in records[0].blocks:
        first, second = (record.weights(info.stage, info.block) for record in records)
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)
