"""Every mode at every size: against the reference model, and from call to call."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import transnext_reference as reference
from golden_data import FLOAT64_TOLERANCE, max_relative_error
from small_model import ARCHITECTURE, CLASSES, images, small_model
from transnext_models import TransNeXt, create_model

MODES = {
    "classification": {},
    "linear": {"fixed_pool_size": 3, "pretrain_size": 64},
    "backbone": {"features_only": True, "img_size": 96, "pretrain_size": 64},
    "backbone_extrapolated": {"features_only": True, "position_bias": "extrapolate"},
    "backbone_linear": {"features_only": True, "img_size": 64, "fixed_pool_size": 2},
    "interpolated_classification": {"position_bias": "interpolate", "img_size": 160},
    "ablation": {"attention": "pixel_focused"},
    "all_aggregated": {"sr_ratios": (16, 8, 4, 2), "pretrain_size": 256},
    "wide_window": {"window_size": 5},
}
SIZES = [(32, 32), (33, 47), (97, 32), (75, 130)]


def reference_output(model: TransNeXt, options: dict, x: torch.Tensor) -> list[np.ndarray]:
    keywords = {
        name: options[name]
        for name in ("sr_ratios", "img_size", "pretrain_size", "fixed_pool_size")
        if name in options
    }
    keywords["position_bias"] = model.position_bias
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    run = reference.forward_features if model.features_only else reference.forward
    result = run(weights, x.numpy(), **keywords)
    return result if isinstance(result, list) else [result]


def outputs(model: TransNeXt, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        result = model(x)
    return result if isinstance(result, list) else [result]


@pytest.mark.parametrize("mode", list(MODES))
def test_agrees_with_the_reference_as_the_size_changes(mode):
    model = small_model(**MODES[mode])
    for height, width in SIZES:
        x = images(height, width)
        expected = reference_output(model, MODES[mode], x)
        actual = outputs(model, x)
        assert len(actual) == len(expected)
        for got, wanted in zip(actual, expected, strict=True):
            assert max_relative_error(got.numpy(), wanted) <= FLOAT64_TOLERANCE, (height, width)
    # The size before left nothing behind.
    for got, again in zip(actual, outputs(model, x), strict=True):
        assert torch.equal(got, again)


def test_modes_differ():
    """So that the agreement above cannot come from an option that does nothing."""
    x = images(75, 130)
    logits = {
        mode: outputs(small_model(**options), x)[-1]
        for mode, options in MODES.items()
        if not options.get("features_only")
    }
    names = list(logits)
    for i, first in enumerate(names):
        for second in names[:i]:
            assert max_relative_error(logits[first], logits[second]) > 1e-4, (first, second)


def real_model(name: str, **options) -> TransNeXt:
    """A variant with quickly made weights: what it computes is not looked at, only that it does."""
    with torch.device("meta"):
        model = create_model(name, **options)
    model.to_empty(device="cpu").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.05, 0.05)
    return model


@pytest.mark.parametrize("mode", ["classification", "linear", "backbone", "ablation"])
@pytest.mark.parametrize("name", ["transnext_pico", "transnext_tiny", "transnext_micro_AAAA"])
def test_real_variants_run_at_odd_sizes(name, mode):
    model = real_model(name, **MODES[mode])
    for height, width in [(32, 32), (61, 45)]:
        results = outputs(model, torch.randn(1, 3, height, width))
        assert all(x.isfinite().all() for x in results)
        if mode != "backbone":
            assert [x.shape for x in results] == [(1, model.num_classes)]
            continue
        assert [tuple(x.shape) for x in results] == [
            (1, info["num_chs"], -(-height // info["reduction"]), -(-width // info["reduction"]))
            for info in model.feature_info
        ]


def test_batch_changes_from_call_to_call():
    model, x = small_model(), images(48, 64, batch=3)
    whole = outputs(model, x)[0]
    for batch in (1, 2):
        torch.testing.assert_close(outputs(model, x[:batch])[0], whole[:batch])
    assert outputs(model, x[:0])[0].shape == (0, CLASSES)


def test_feature_maps_are_views_of_tokens():
    """Channels last, so that neither the next stage nor a dense head copies them."""
    for feature_map in outputs(small_model(features_only=True), images(64, 96)):
        assert feature_map.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layout_of_the_image_does_not_matter(layout):
    model, x = small_model(), images(40, 72)
    expected = outputs(model, x)[0]
    torch.testing.assert_close(outputs(model, x.contiguous(memory_format=layout))[0], expected)
    strided = torch.stack([x, x], dim=-1)[..., 0]
    torch.testing.assert_close(outputs(model, strided)[0], expected)


def test_backbone_gives_the_chosen_maps():
    x, whole = images(64, 96), small_model(features_only=True)
    maps = outputs(whole, x)
    for chosen, indices in (((0, 2), [0, 2]), ((-1, 1), [3, 1]), (2, [2, 3])):
        model = small_model(features_only=True, out_indices=chosen)
        for got, index in zip(outputs(model, x), indices, strict=True):
            torch.testing.assert_close(got, maps[index])
        assert model.feature_info.channels() == [ARCHITECTURE["embed_dims"][i] for i in indices]
        assert model.feature_info.reduction() == [4 * 2**i for i in indices]


def test_backbone_does_not_build_stages_after_the_last_map():
    names = small_model(features_only=True, out_indices=(0, 1)).state_dict()
    assert {name[: name.index(".")] for name in names} == {
        f"{part}{i}" for part in ("patch_embed", "block", "norm") for i in (1, 2)
    }


def test_linear_mode_pools_to_the_fixed_grid_but_never_beyond_the_grid():
    model = small_model(fixed_pool_size=7)
    assert model.stage_grids(0, (112, 80)).pool_grid == (7, 7)
    assert model.stage_grids(2, (5, 40)).pool_grid == (5, 7)
    assert model.stage_grids(3, (14, 10)).pool_grid == (14, 10)


def test_pooled_grid_is_at_least_one_token():
    assert small_model().stage_grids(0, (30, 7)).pool_grid == (3, 1)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 31, 64), "31 x 64"),
        ((2, 3, 64, 31), "64 x 31"),
        ((2, 1, 64, 64), r"\(2, 1, 64, 64\).*\[B, 3, H, W\]"),
        ((3, 64, 64), r"\(3, 64, 64\)"),
    ],
)
def test_bad_images_are_answered_with_what_is_needed(shape, message):
    with pytest.raises(ValueError, match=message):
        small_model()(torch.zeros(shape, dtype=torch.float64))
    with pytest.raises(ValueError, match=message):
        small_model().forward_intermediates(torch.zeros(shape, dtype=torch.float64))


def test_images_must_be_a_tensor():
    with pytest.raises(TypeError, match=r"x: got ndarray, needs a torch\.Tensor"):
        small_model()(torch.zeros(1, 3, 32, 32).numpy())


def test_images_of_whole_numbers_are_refused():
    with pytest.raises(TypeError, match="uint8"):
        small_model()(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_other_channels():
    model = small_model(in_chans=5)
    assert outputs(model, torch.ones(1, 5, 32, 32, dtype=torch.float64))[0].shape == (1, CLASSES)
