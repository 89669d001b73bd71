"""Preprocessing gives, value for value, what the published evaluation's transforms give."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from transnext_models import VARIANTS
from transnext_models.classification.preprocess import Preprocess

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def torchvision_transform(preprocess: Preprocess):
    """The published evaluation, written with torchvision as its repository does."""
    transforms = pytest.importorskip("torchvision.transforms")
    bicubic = transforms.InterpolationMode.BICUBIC
    size = preprocess.size
    if preprocess.crop_mode == "squash":
        resize = [transforms.Resize((size, size), interpolation=bicubic)]
    else:
        resize = [
            transforms.Resize(math.floor(size / preprocess.crop_pct), interpolation=bicubic),
            transforms.CenterCrop(size),
        ]
    return transforms.Compose(
        [*resize, transforms.ToTensor(), transforms.Normalize(preprocess.mean, preprocess.std)]
    )


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(64, MEAN, STD),
        Preprocess(224, MEAN, STD),
        Preprocess(96, MEAN, STD, "squash", 1.0),
        Preprocess(384, MEAN, STD, "squash", 1.0),
        Preprocess(33, MEAN, STD, "center", 0.9),
    ],
    ids=lambda p: f"{p.crop_mode}{p.size}",
)
@pytest.mark.parametrize(
    "size",
    [(300, 200), (200, 301), (64, 64), (256, 256), (37, 37), (5, 90), (500, 11), (1, 1), (73, 74)],
    ids=lambda s: f"{s[0]}x{s[1]}",
)
def test_same_as_torchvision(preprocess, size):
    image = noise(*size)
    expected = torchvision_transform(preprocess)(image)
    assert torch.equal(preprocess(image), expected)


@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    size=st.integers(32, 120),
    squash=st.booleans(),
)
def test_same_as_torchvision_for_any_size(width, height, size, squash):
    mode, pct = ("squash", 1.0) if squash else ("center", 0.875)
    preprocess = Preprocess(size, MEAN, STD, mode, pct)
    image = noise(width, height)
    assert torch.equal(preprocess(image), torchvision_transform(preprocess)(image))


@pytest.mark.parametrize("name", ["transnext_pico", "transnext_tiny", "transnext_base.in1k_384"])
def test_same_as_timm_for_published_weights(name):
    factory = pytest.importorskip("timm.data.transforms_factory")
    architecture, _, tag = name.partition(".")
    checkpoint = VARIANTS[architecture].checkpoint(tag or None)
    expected = factory.transforms_imagenet_eval(
        checkpoint.img_size,
        crop_pct=checkpoint.crop_pct,
        crop_mode=checkpoint.crop_mode,
        interpolation=checkpoint.interpolation,
        mean=checkpoint.mean,
        std=checkpoint.std,
    )
    image = noise(500, 333)
    assert torch.equal(Preprocess.of(checkpoint)(image), expected(image))


def test_published_rule_at_other_sizes():
    tiny = VARIANTS["transnext_tiny"].default
    small_384 = VARIANTS["transnext_small"].checkpoint("in1k_384")
    pico = VARIANTS["transnext_pico"].default

    def rule(checkpoint, size):
        preprocess = Preprocess.of(checkpoint, size)
        return preprocess.size, preprocess.crop_mode, preprocess.crop_pct

    assert rule(tiny, None) == (224, "center", 0.875)
    assert rule(tiny, 320) == (320, "center", 0.875)
    assert rule(tiny, 384) == (384, "squash", 1.0)
    assert rule(small_384, None) == (384, "squash", 1.0)
    assert rule(small_384, 224) == (224, "center", 0.875)
    assert rule(pico, None) == (64, "squash", 1.0)
    assert rule(pico, 96) == (96, "squash", 1.0)


def test_result_is_normalised_rgb():
    result = Preprocess(32, MEAN, STD)(Image.new("RGB", (50, 40), (255, 0, 128)))
    assert result.shape == (3, 32, 32)
    assert result.dtype == torch.float32
    expected = [(v / 255 - m) / s for v, m, s in zip((255, 0, 128), MEAN, STD, strict=True)]
    assert torch.allclose(result[:, 0, 0], torch.tensor(expected))
    assert torch.equal(result[:, :1, :1].expand_as(result), result)


def test_extreme_strips_stay_small_on_the_way():
    """A 1x30000 strip would become 256x7680000 before its crop; only the crop is computed."""
    strip = noise(1, 30_000)
    preprocess = Preprocess(224, MEAN, STD)
    result = preprocess(strip)
    middle = torchvision_transform(Preprocess(224, MEAN, STD))(strip.crop((0, 14_990, 1, 15_010)))
    assert result.shape == (3, 224, 224)
    assert (result - middle).abs().max() < 0.1
    assert preprocess(noise(30_000, 1)).shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"size": 31}, "size"),
        ({"size": 224.0}, "size"),
        ({"size": True}, "size"),
        ({"crop_mode": "border"}, "crop_mode"),
        ({"crop_pct": 0.0}, "crop_pct"),
        ({"crop_pct": 1.5}, "crop_pct"),
        ({"interpolation": "box"}, "interpolation"),
    ],
)
def test_bad_arguments_are_named(options, argument):
    with pytest.raises(ValueError, match=rf"^{argument}: .*got"):
        Preprocess(**{"size": 64, "mean": MEAN, "std": STD, **options})
