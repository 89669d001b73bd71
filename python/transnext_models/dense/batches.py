"""Images as they enter a model: resized, normalised, and several of them put together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..variants import MIN_SIZE
from .opencv_resize import fitting_size, resize_bilinear

__all__ = ["MEAN", "STD", "check_sizes", "fitted", "normalise", "pad_images"]

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""Of red, green and blue on 0…255, for all published models."""


def normalise(image: Tensor) -> Tensor:
    """Return an RGB image ``[3, H, W]`` on 0…255 less the mean, over the deviation, as float32."""
    image = image.float()
    return (image - image.new_tensor(MEAN)[:, None, None]) / image.new_tensor(STD)[:, None, None]


def fitted(
    pixels: NDArray[np.uint8], scale: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Return an image resized as published, to fit into two sides, and normalised.

    Parameters
    ----------
    pixels : ndarray
        RGB uint8 ``[h, w, 3]``.
    scale : (int, int)
        The long and the short side; the proportions are kept, unless a side would be shorter than
        the least that a backbone takes.
    device : torch.device
        Where it is normalised.

    Returns
    -------
    Tensor
        ``[3, H, W]``.
    """
    height, width = fitting_size((pixels.shape[0], pixels.shape[1]), scale)
    size = max(height, MIN_SIZE), max(width, MIN_SIZE)
    resized = torch.from_numpy(resize_bilinear(pixels, size)).to(device)
    return normalise(resized.permute(2, 0, 1))


def pad_images(
    images: Sequence[Tensor], divisor: int = 1, *, size: tuple[int, int] = (0, 0)
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Put images together.

    Parameters
    ----------
    images : sequence of Tensor
        Normalised, ``[3, H_i, W_i]``.
    divisor : int
        Sides are padded to the largest of the batch, then to multiples of it: 32 for Mask R-CNN and
        for Mask2Former in inference, 1 for DINO and UPerNet.
    size : (int, int)
        And to this height and width at least.

    Returns
    -------
    Tensor
        ``[B, 3, H, W]``.
    list of (int, int)
        Height and width of each image.
    """
    if not images:
        raise ValueError("images: got none, needs at least one")
    for image in images:
        if image.dim() != 3 or len(image) != 3:
            raise ValueError(f"images: got {tuple(image.shape)}, needs [3, H, W]")
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    height, width = (
        -(-max(size[axis], *(own[axis] for own in sizes)) // divisor) * divisor for axis in (0, 1)
    )
    batch = images[0].new_zeros(len(images), 3, height, width)
    for target, image in zip(batch, images, strict=True):
        target[:, : image.shape[1], : image.shape[2]] = image
    return batch, sizes


def check_sizes(
    images: Tensor, sizes: Sequence[tuple[int, int]] | None, *, inside: bool = True
) -> list[tuple[int, int]]:
    """Return (height, width) of each image of a batch ``[B, 3, H, W]``; None means the batch's.

    Raises
    ------
    ValueError
        If there is not one for each image, or one is not positive, or not ``inside`` the batch's.
    """
    height, width = images.shape[-2:]
    if sizes is None:
        return [(height, width)] * len(images)
    if len(sizes) != len(images):
        raise ValueError(f"sizes: got {len(sizes)}, needs one for each of {len(images)} images")
    for rows, columns in sizes:
        if min(rows, columns) < 1 or (inside and (rows > height or columns > width)):
            needs = f"1 x 1 to the batch's {height} x {width}" if inside else "at least 1 x 1"
            raise ValueError(f"sizes: got {rows} x {columns}, needs {needs}")
    return [(int(rows), int(columns)) for rows, columns in sizes]
