"""Every operation of RandAugment runs over its whole range, on every Pillow.

    python tests/training/test_training_augmentation.py 20000

augments so many images by the published recipe, with the Pillow that is installed.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from transnext_models.classification.preprocess import Preprocess
from transnext_models.training.augmentation import image_augmentation, posterize
from transnext_models.training.random_numbers import seed_sample
from transnext_models.training.recipes import ImageAugmentation, get_recipe

auto_augment = pytest.importorskip("timm.data.auto_augment")

PREPROCESS = Preprocess(48, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _image(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 75, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def _published() -> ImageAugmentation:
    augmentation = get_recipe("imagenet_224").augmentation
    assert augmentation is not None
    return augmentation


def _operations(policy: str) -> list[Any]:
    transform = image_augmentation(ImageAugmentation(auto_augment=policy), PREPROCESS)
    found = []
    for step in transform.transforms:
        found += getattr(step, "ops", [])
        found += [operation for sub in getattr(step, "policy", []) for operation in sub]
    return found


@pytest.mark.parametrize(
    "policy", ["rand-m9-mstd0.5-inc1", "rand-m9-mstd0.5", "original-mstd0.5", "v0", "augmix-m5"]
)
def test_every_operation_runs_at_both_ends_of_its_range(policy: str) -> None:
    operations = _operations(policy)
    assert len(operations) >= 13
    for operation in operations:
        operation.prob, operation.magnitude_std = 1.0, 0.0
        for magnitude in (0, 1e-9, 0.5, 2.5, 5, 7.5, 9.5, 9.999, 10, 11):
            operation.magnitude = magnitude
            for attempt in range(4):  # of either sign
                random.seed(attempt)
                image = _image()
                assert operation(image).size == image.size, (operation, magnitude)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_posterize_keeps_the_highest_bits(mode: str) -> None:
    image = _image().convert(mode)
    for bits in range(-1, 10):
        mask = 0xFF & ~(2 ** (8 - min(max(bits, 0), 8)) - 1)
        assert np.array_equal(np.asarray(posterize(image, bits)), np.asarray(image) & mask)
    assert posterize(image, 0).getextrema() in ((0, 0), ((0, 0),) * 3)


def test_timm_s_own_table_stays_as_it_is() -> None:
    before = dict(auto_augment.NAME_TO_OP)
    chosen = [op for op in _operations("rand-m9-mstd0.5-inc1") if op.name.startswith("Posterize")]
    assert [operation.aug_fn for operation in chosen] == [posterize]
    assert before == auto_augment.NAME_TO_OP
    assert posterize not in before.values()
    # An object of timm's made afterwards is timm's.
    assert auto_augment.AugmentOp("Posterize").aug_fn is auto_augment.posterize


def augment(count: int) -> None:
    """Augment so many images as the published recipe does."""
    transform = image_augmentation(_published(), PREPROCESS)
    images = [_image(seed) for seed in range(8)]
    for index in range(count):
        seed_sample(0, 0, index)
        result = transform(images[index % len(images)])
        assert result.shape == (3, 48, 48)
        assert result.isfinite().all(), index


@pytest.mark.slow
def test_two_thousand_images() -> None:
    augment(2000)


if __name__ == "__main__":
    wanted = int(sys.argv[1])
    augment(wanted)
    print(f"{wanted} images augmented with Pillow {PIL.__version__}")
