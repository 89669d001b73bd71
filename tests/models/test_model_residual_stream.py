"""Blocks in mixed precision as a GPU runs them are what they are layer by layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import small_model as small
from transnext_models import TransNeXt
from transnext_models.layers import cast_weights, residual_stream, stage_calls

TYPES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
OPTIONS = pytest.mark.parametrize(
    "options",
    [
        {},
        {"attention": "pixel_focused", "qkv_bias": False},
        {"features_only": True, "out_indices": (1, 3)},
        {"proj_drop_rate": 0.3, "drop_path_rate": 0.5},
        {"length_scaling": "training"},
    ],
    ids=lambda options: ", ".join(options) or "published",
)


def small_model(**options: Any) -> TransNeXt:
    return small.small_model(**options).float()


def images(size: int) -> Tensor:
    return small.images(size).float()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let tokens on the CPU take the way of those on a GPU; how many blocks did."""
    taken: list[int] = []
    through = residual_stream._Stream.through

    def count(stream, blocks):
        taken.append(len(blocks))
        return through(stream, blocks)

    monkeypatch.setattr(stage_calls, "features_of", lambda x: None)
    monkeypatch.setattr(residual_stream, "runs_on_cpu", lambda x: False)
    monkeypatch.setattr(residual_stream._Stream, "through", count)
    return taken


def outputs(model: nn.Module, x: Tensor, dtype: torch.dtype | None) -> list[Tensor]:
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        found = model(x)
    return found if isinstance(found, list) else [found]


def error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


@TYPES
@OPTIONS
def test_outputs_are_as_exact_as_by_layers(calls, monkeypatch, options, dtype) -> None:
    model, x = small_model(**options).eval(), images(64)
    with torch.no_grad():
        actual = outputs(model, x, dtype)
        assert calls == [len(stage.blocks) for stage in model.stages()]
        monkeypatch.setattr(residual_stream, "_branch_type", lambda x: None)
        with torch.enable_grad():  # or the fused blocks of CPUs would run
            by_layers = outputs(model, x, dtype)
        exact = model.double()(x.double())
    for ours, theirs, right in zip(
        actual, by_layers, exact if isinstance(exact, list) else [exact], strict=True
    ):
        assert ours.shape == right.shape
        assert error(ours, right) <= max(2 * error(theirs, right), torch.finfo(dtype).eps)


@TYPES
def test_types_of_the_maps_are_those_of_autocast(calls, monkeypatch, dtype) -> None:
    model, x = small_model(features_only=True).eval(), images(64)
    with torch.no_grad():
        actual = [each.dtype for each in outputs(model, x, dtype)]
        monkeypatch.setattr(residual_stream, "_branch_type", lambda x: None)
        assert actual == [each.dtype for each in outputs(model, x, dtype)]


def test_a_model_in_float16_needs_no_autocast(calls) -> None:
    model, x = small_model().eval(), images(64)
    with torch.no_grad():
        expected = model(x.float())
        calls.clear()
        actual = model.half()(x.half())
    assert calls
    assert actual.dtype == torch.float16
    assert error(actual, expected) <= 1e-2


@TYPES
@OPTIONS
def test_gradients_are_as_exact_as_by_layers(calls, monkeypatch, options, dtype) -> None:
    """Against those in float64; of dropout the same elements are dropped where it draws alike."""
    options = {name: value for name, value in options.items() if "drop" not in name}
    model, x = small_model(**options).train(), images(64)

    def gradients(model: nn.Module, x: Tensor, dtype: torch.dtype | None) -> dict[str, Tensor]:
        model.zero_grad()
        sum(each.float().square().mean() for each in outputs(model, x, dtype)).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    actual = gradients(model, x, dtype)
    assert calls
    monkeypatch.setattr(residual_stream, "_branch_type", lambda x: None)
    by_layers = gradients(model, x, dtype)
    assert actual.keys() == by_layers.keys()
    exact = gradients(model.double(), x.double(), None)
    errors = []
    for found in (actual, by_layers):
        assert all(gradient.dtype == torch.float32 for gradient in found.values())
        off = torch.stack([(g.double() - exact[name]).norm() for name, g in found.items()])
        size = torch.stack([exact[name].norm() for name in found])
        errors.append(off / size.clamp(min=1e-3 * float(size.max())))  # some are zero but rounded
    ours, theirs = errors
    # Where bfloat16 is off by a third, other roundings make half of that more or less.
    assert ours.square().mean().sqrt() <= 2.0 * theirs.square().mean().sqrt()
    rounding = max(32 * torch.finfo(dtype).eps, 4 * float(theirs.square().mean().sqrt()))
    assert (ours <= torch.clamp(6 * theirs, min=rounding)).all()


def test_training_with_dropout_and_drop_path_trains_every_parameter(calls) -> None:
    model = small_model(proj_drop_rate=0.3, drop_path_rate=0.5).train()
    (out,) = outputs(model, images(64), torch.bfloat16)
    out.float().square().sum().backward()
    assert calls
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_samples_are_dropped_and_the_others_scaled(calls) -> None:
    """A dropped sample's branch adds nothing, and the two branches of a block draw apart."""
    model = small_model(drop_path_rate=0.9).train()
    drop = model.stages()[-1].blocks[-1].drop_path
    factors = torch.stack(list(drop.scales(torch.ones(500, 1), 2)))
    assert factors.unique().tolist() == pytest.approx([0.0, 10.0])
    assert not torch.equal(factors[0], factors[1])
    assert drop.eval().scales(torch.ones(5, 1), 2) == [None, None]


def test_weights_of_a_frozen_model_are_cast_once(calls, monkeypatch) -> None:
    model, x = small_model().freeze(), images(64)
    casts: list[int] = []
    cast = cast_weights._cast

    def count(blocks, dtype):
        casts.append(len(blocks))
        return cast(blocks, dtype)

    monkeypatch.setattr(cast_weights, "_cast", count)
    with torch.no_grad():
        first = outputs(model, x, torch.float16)[0]
        assert sum(casts) == sum(len(stage.blocks) for stage in model.stages())
        assert torch.equal(outputs(model, x, torch.float16)[0], first)
        assert sum(casts) == sum(len(stage.blocks) for stage in model.stages())
        model.freeze(False)
        model.block1[0].mlp.fc2.weight.mul_(2.0)
        assert not torch.equal(outputs(model, x, torch.float16)[0], first)


@pytest.mark.parametrize(
    "attach",
    [
        lambda model: model.block1[0].register_forward_hook(lambda *_: None),
        lambda model: model.block1[0].mlp.fc1.register_forward_hook(lambda *_: None),
        lambda model: setattr(model.block1[0].attn, "proj", nn.Sequential(nn.Linear(24, 24))),
    ],
    ids=["a hook on a block", "a hook on a layer", "another layer"],
)
def test_what_is_attached_to_a_block_is_met_by_layers(calls, attach) -> None:
    model = small_model(embed_dims=(24, 24, 24, 24), num_heads=(1, 1, 1, 1)).eval()
    attach(model)
    with torch.no_grad():
        outputs(model, images(64), torch.float16)
    assert calls == [len(stage.blocks) for stage in model.stages()][1:]


def test_float32_goes_by_layers(calls) -> None:
    with torch.no_grad():
        small_model().eval()(images(64))
    assert not calls
