"""The augmentation of natural images: timm's, on every Pillow."""

from __future__ import annotations

import itertools
from typing import Any

from PIL import Image, ImageOps

from ..classification.preprocess import Preprocess
from .recipes import ImageAugmentation

__all__ = ["image_augmentation", "posterize"]


def image_augmentation(augmentation: ImageAugmentation, preprocess: Preprocess) -> Any:
    """Return timm's training transform: PIL image to normalised float32 [3, size, size].

    Parameters
    ----------
    augmentation : ImageAugmentation
        What to do to an image.
    preprocess : Preprocess
        Size, mean and standard deviation of the result.
    """
    from timm.data import create_transform

    transform = create_transform(
        input_size=preprocess.size,
        is_training=True,
        color_jitter=augmentation.color_jitter,
        auto_augment=augmentation.auto_augment,
        interpolation=augmentation.interpolation,
        re_prob=augmentation.random_erase,
        re_mode=augmentation.random_erase_mode,
        re_count=1,
        mean=tuple(preprocess.mean),
        std=tuple(preprocess.std),
    )
    _replace_posterize(transform)
    return transform


def posterize(image: Image.Image, bits_to_keep: int, **_: Any) -> Image.Image:
    """Keep the highest bits of each channel; none of them makes the image black.

    RandAugment asks for 0 bits at one end of its range. `PIL.ImageOps.posterize` took that up to
    Pillow 12 and gave black; from 13 on it takes 1 to 8 only, and timm hands on what it is given.
    """
    if bits_to_keep >= 8:
        return image
    if bits_to_keep <= 0:
        return Image.new(image.mode, image.size)
    return ImageOps.posterize(image, bits_to_keep)


def _replace_posterize(transform: Any) -> None:
    """Replace timm's posterize by `posterize` in one transform; timm's own table stays as it is.

    A transform holds its operations as objects with the function to call, so nothing global is
    changed, and a copy of the transform in a loading process has the replacement too.
    """
    from timm.data import auto_augment

    for step in transform.transforms:
        policies = getattr(step, "policy", ())  # AutoAugment; RandAugment and AugMix have `ops`
        for operation in (*getattr(step, "ops", ()), *itertools.chain(*policies)):
            if getattr(operation, "aug_fn", None) is auto_augment.posterize:
                operation.aug_fn = posterize
