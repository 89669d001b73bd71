"""The whole model forward, tested against the published outputs and what every mode must do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import transnext_reference as reference
from golden_data import FLOAT64_TOLERANCE, GoldenCase, fill_state_dict, load_case

Shapes = dict[str, tuple[int, ...]]


def expected_shapes(
    embed_dims: Sequence[int],
    heads: Sequence[int],
    depths: Sequence[int],
    mlp_ratios: Sequence[int] = (8, 8, 4, 4),
    sr_ratios: Sequence[int] = (8, 4, 2, 1),
    window_size: int = 3,
    classes: int | None = 1000,
    pixel_focused: bool = False,
) -> Shapes:
    """The state dict of a variant, from the list of parameter names in the model's description."""
    shapes: Shapes = {}

    def layer(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"] = weight
        shapes[f"{name}.bias"] = weight[:1]

    previous, cells = 3, window_size**2
    stages = zip(embed_dims, heads, depths, mlp_ratios, sr_ratios, strict=True)
    for stage, (width, head_count, depth, mlp_ratio, sr_ratio) in enumerate(stages, start=1):
        kernel = 7 if stage == 1 else 3
        layer(f"patch_embed{stage}.proj", width, previous, kernel, kernel)
        layer(f"patch_embed{stage}.norm", width)
        for number in range(depth):
            block = f"block{stage}.{number}"
            attn, mlp = f"{block}.attn", f"{block}.mlp"
            layer(f"{block}.norm1", width)
            layer(f"{block}.norm2", width)
            shapes[f"{attn}.temperature"] = (head_count, 1, 1)
            if not pixel_focused:
                shapes[f"{attn}.query_embedding"] = (head_count, 1, width // head_count)
            layer(f"{attn}.cpb_fc1", 512, 2)
            layer(f"{attn}.cpb_fc2", head_count, 512)
            layer(f"{attn}.proj", width, width)
            if sr_ratio == 1:
                layer(f"{attn}.qkv", 3 * width, width)
            else:
                shapes[f"{attn}.relative_pos_bias_local"] = (head_count, cells)
                if not pixel_focused:
                    shapes[f"{attn}.learnable_tokens"] = (head_count, width // head_count, cells)
                    shapes[f"{attn}.learnable_bias"] = (head_count, 1, cells)
                layer(f"{attn}.q", width, width)
                layer(f"{attn}.kv", 2 * width, width)
                layer(f"{attn}.sr", width, width, 1, 1)
                layer(f"{attn}.norm", width)
            hidden = int(2 * int(width * mlp_ratio) / 3)
            layer(f"{mlp}.fc1", 2 * hidden, width)
            layer(f"{mlp}.dwconv.dwconv", hidden, 1, 3, 3)
            layer(f"{mlp}.fc2", width, hidden)
        layer(f"norm{stage}", width)
        previous = width
    if classes is not None:
        layer("head", classes, previous)
    return shapes


MICRO = ((48, 96, 192, 384), (2, 4, 8, 16), (2, 2, 15, 2))
TINY = ((72, 144, 288, 576), (3, 6, 12, 24), (2, 2, 15, 2))
SMALL_TEST = ((8, 12, 16, 24), (1, 2, 2, 3), (1, 1, 2, 1))


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("micro_224", expected_shapes(*MICRO)),
        ("tiny_448_pool7", expected_shapes(*TINY)),
        ("tiny_64_grads", expected_shapes(*TINY)),
        ("backbone_tiny_interp_224x288", expected_shapes(*TINY, classes=None)),
    ],
)
def test_parameter_names_and_shapes(name: str, shapes: Shapes) -> None:
    assert shapes == load_case(name).shapes


def keywords_of(case: GoldenCase) -> dict[str, object]:
    return {
        "img_size": case.img_size,
        "pretrain_size": case.pretrain_size,
        "fixed_pool_size": case.fixed_pool_size,
        "position_bias": case.position_bias,
    }


def as_tokens(feature_map: np.ndarray) -> np.ndarray:
    """``[B, C, H, W]`` to ``[B, N, C]``."""
    return feature_map.reshape(*feature_map.shape[:2], -1).swapaxes(1, 2)


def test_golden_classification() -> None:
    case = load_case("micro_224")
    state_dict, images = case.state_dict(), case.images()
    maps = reference.forward_features(state_dict, images, **keywords_of(case))
    for name, feature_map in zip(case.map_names, maps, strict=True):
        assert case.relative_error(name, as_tokens(feature_map)) <= FLOAT64_TOLERANCE
    logits = maps[-1].mean(axis=(2, 3)) @ state_dict["head.weight"].T.astype(np.float64)
    assert case.relative_error("logits", logits + state_dict["head.bias"]) <= FLOAT64_TOLERANCE


def test_golden_logits_at_64() -> None:
    case = load_case("tiny_64_grads")
    logits = reference.forward(case.state_dict(), case.images(), **keywords_of(case))
    assert case.relative_error("logits", logits) <= FLOAT64_TOLERANCE


@pytest.mark.slow
def test_golden_linear_inference_mode() -> None:
    case = load_case("tiny_448_pool7")
    state_dict = case.state_dict()
    maps = reference.forward_features(state_dict, case.images()[:1], **keywords_of(case))
    for name, feature_map in zip(case.map_names, maps, strict=True):
        tokens = as_tokens(feature_map)
        assert case.relative_error(name, tokens, first_image_only=True) <= FLOAT64_TOLERANCE
    logits = maps[-1].mean(axis=(2, 3)) @ state_dict["head.weight"].T.astype(np.float64)
    logits = logits + state_dict["head.bias"]
    assert case.relative_error("logits", logits, first_image_only=True) <= FLOAT64_TOLERANCE


@pytest.mark.slow
def test_golden_dense_backbone() -> None:
    case = load_case("backbone_tiny_interp_224x288")
    maps = reference.forward_features(case.state_dict(), case.images()[:1], **keywords_of(case))
    for name, feature_map in zip(case.map_names, maps, strict=True):
        assert case.relative_error(name, feature_map, first_image_only=True) <= FLOAT64_TOLERANCE


def images_of(height: int, width: int, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, 3, height, width))


@pytest.mark.parametrize("mode", ["extrapolate", "interpolate"])
@pytest.mark.parametrize("fixed_pool_size", [None, 1, 3])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 40)])
def test_every_size_and_mode(size: tuple[int, int], fixed_pool_size: int | None, mode: str) -> None:
    state_dict = fill_state_dict(expected_shapes(*SMALL_TEST, classes=5))
    keywords = {
        "img_size": 64,
        "pretrain_size": 48,
        "fixed_pool_size": fixed_pool_size,
        "position_bias": mode,
    }
    images = images_of(*size)
    maps = reference.forward_features(state_dict, images, **keywords)
    height, width = size
    for feature_map, channels, stride in zip(maps, SMALL_TEST[0], (4, 8, 16, 32), strict=True):
        rows, columns = -(-height // stride), -(-width // stride)
        assert feature_map.shape == (2, channels, rows, columns)
        assert feature_map.dtype == np.float64
        assert np.isfinite(feature_map).all()
    logits = reference.forward(state_dict, images, **keywords)
    assert logits.shape == (2, 5)
    alone = reference.forward(state_dict, images[1:], **keywords)
    np.testing.assert_allclose(alone, logits[1:], rtol=1e-10, atol=1e-12)
    empty = reference.forward(state_dict, images[:0], **keywords)
    assert empty.shape == (0, 5)


def test_modes_meet_where_they_must() -> None:
    """Interpolation at the training size changes nothing; nor does the usual pool size, fixed."""
    state_dict = fill_state_dict(expected_shapes(*SMALL_TEST, sr_ratios=(4, 2, 2, 1), classes=5))
    images = images_of(64, 64)
    sizes = {"sr_ratios": (4, 2, 2, 1), "img_size": 64, "pretrain_size": 48}
    plain = reference.forward(state_dict, images, **sizes)
    interpolated = reference.forward(state_dict, images, **sizes, position_bias="interpolate")
    np.testing.assert_allclose(interpolated, plain, rtol=1e-10, atol=1e-12)
    other = reference.forward(
        state_dict, images, **{**sizes, "img_size": 96}, position_bias="interpolate"
    )
    assert np.abs(other - plain).max() > 1e-6
    longer = reference.forward(state_dict, images, **{**sizes, "pretrain_size": 64})
    assert np.abs(longer - plain).max() > 1e-6

    # At 64, the grids of stages 1 to 3 are 16, 8, 4: a fixed pool of 4 fits, larger ones are cut.
    same_pools = reference.forward(
        state_dict, images, **{**sizes, "sr_ratios": (4, 2, 4, 1)}, fixed_pool_size=4
    )
    doubled = reference.forward(state_dict, images, **sizes, fixed_pool_size=4)
    np.testing.assert_array_equal(same_pools, doubled)
    assert np.abs(doubled - plain).max() > 1e-6
    clipped = reference.forward(state_dict, images, **sizes, fixed_pool_size=100)
    exactly = reference.forward(state_dict, images, **sizes, fixed_pool_size=16)
    np.testing.assert_array_equal(clipped, exactly)


def test_aggregated_attention_in_every_stage() -> None:
    sr_ratios = (16, 8, 4, 2)
    state_dict = fill_state_dict(expected_shapes(*SMALL_TEST, sr_ratios=sr_ratios, classes=5))
    images = images_of(64, 96)
    logits = reference.forward(state_dict, images, sr_ratios=sr_ratios, pretrain_size=256)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("window_size", [1, 2, 5])
def test_window_is_read_from_the_state_dict(window_size: int) -> None:
    shapes = expected_shapes(*SMALL_TEST, window_size=window_size, classes=5)
    assert np.isfinite(reference.forward(fill_state_dict(shapes), images_of(32, 48))).all()


def test_pixel_focused_attention_is_the_case_without_query_embedding_and_tokens() -> None:
    full = fill_state_dict(expected_shapes(*SMALL_TEST, classes=5))
    reduced = fill_state_dict(expected_shapes(*SMALL_TEST, classes=5, pixel_focused=True))
    removed = ("query_embedding", "learnable_tokens", "learnable_bias")
    assert {key for key in full if key.split(".")[-1] in removed} == full.keys() - reduced.keys()
    zeroed = {
        key: np.zeros_like(value) if key.split(".")[-1] in removed else value
        for key, value in full.items()
    }
    images = images_of(32, 48)
    logits = reference.forward(reduced, images)
    np.testing.assert_allclose(reference.forward(zeroed, images), logits, rtol=1e-10)
    assert np.abs(reference.forward(full, images) - logits).max() > 1e-3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sr_ratios": (8, 4, 2, 2)}, r"sr_ratios: got 2 for stage 4, but block4\.0\.attn"),
        ({"sr_ratios": (8, 4, 1, 1)}, r"sr_ratios: got 1 for stage 3, but block3\.0\.attn"),
        ({"sr_ratios": (8, 4, 2)}, r"sr_ratios: got \(8, 4, 2\), needs 4"),
        ({"position_bias": "guess"}, "position_bias: got 'guess'"),
        ({"img_size": 16}, "img_size: got 16, needs at least 32"),
        ({"pretrain_size": 0}, "pretrain_size: got 0"),
        ({"fixed_pool_size": 0}, "fixed_pool_size: got 0"),
        ({"images": np.zeros((1, 1, 32, 32))}, r"images: got shape \[1, 1, 32, 32\]"),
        ({"images": np.zeros((1, 3, 31, 32))}, "images: got 31 x 32 pixels"),
        ({"state_dict": {}}, "state_dict: key 'patch_embed1.proj.weight' is missing"),
    ],
)
def test_wrong_arguments_are_named(changed: dict[str, object], message: str) -> None:
    state_dict = fill_state_dict(expected_shapes(*SMALL_TEST, classes=5))
    arguments = {"state_dict": state_dict, "images": images_of(32, 32)}
    with pytest.raises(ValueError, match=message):
        reference.forward(**{**arguments, **changed})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("head.weight", None, r"key 'head\.weight' is missing"),
        ("block3.1.attn.q.bias", None, r"key 'block3\.1\.attn\.q\.bias' is missing"),
        ("norm2.weight", np.ones(3), r"state_dict\['norm2\.weight'\]: got shape \[3\]"),
        (
            "block1.0.attn.relative_pos_bias_local",
            np.ones((1, 8)),
            r"block1\.0\.attn\.relative_pos_bias_local'\]: got 8 window cells",
        ),
    ],
)
def test_wrong_state_dicts_are_named(key: str, value: np.ndarray | None, message: str) -> None:
    state_dict = fill_state_dict(expected_shapes(*SMALL_TEST, classes=5))
    del state_dict[key]
    if value is not None:
        state_dict[key] = value
    with pytest.raises(ValueError, match=message):
        reference.forward(state_dict, images_of(32, 32))
