"""Steps that resize and mirror: image, boxes, masks and label map together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..dense.opencv_resize import fitting_size, resize_bilinear, resize_nearest
from ..dense.run_lengths import Size
from .draws import Draws
from .sample import DenseSample

__all__ = ["ChosenResize", "Flip", "Resize", "ScaledResize", "clipped", "resized"]

Scale = tuple[int, int]  # long side, short side


def resized(sample: DenseSample, size: Size) -> DenseSample:
    """Resize to (height, width): images bilinearly, masks and labels to the nearest pixel.

    Boxes are clipped to the image afterwards, as published.
    """
    factor = np.array([size[1] / sample.size[1], size[0] / sample.size[0]] * 2, np.float32)
    masks, label_map = sample.masks, sample.label_map
    return replace(
        sample,
        image=resize_bilinear(sample.image, size),
        boxes=None if sample.boxes is None else clipped(sample.boxes * factor, size),
        masks=None if masks is None else resize_nearest(masks, size),
        label_map=None if label_map is None else resize_nearest(label_map, size),
    )


def clipped(boxes: np.ndarray, size: Size) -> np.ndarray:
    """Clip boxes float32 [n, 4] to an image of (height, width)."""
    height, width = size
    return np.clip(boxes, 0, np.array([width, height, width, height], boxes.dtype))


@dataclass(frozen=True)
class Resize:
    """Fit an image into a long and a short side, its proportions kept.

    Attributes
    ----------
    scale : tuple[int, int]
        The sides.
    """

    scale: Scale

    def __call__(self, sample: DenseSample, draws: Draws) -> DenseSample:
        """Resize it."""
        return resized(sample, fitting_size(sample.size, self.scale))


@dataclass(frozen=True)
class ScaledResize:
    """Fit an image into sides times a factor that is drawn evenly.

    Attributes
    ----------
    scale : tuple[int, int]
        The sides at factor 1.
    factors : tuple[float, float]
        The smallest and the largest factor.
    """

    scale: Scale
    factors: tuple[float, float]

    def __call__(self, sample: DenseSample, draws: Draws) -> DenseSample:
        """Resize it."""
        factor = draws.uniform(*self.factors)
        scale = [int(side * factor) for side in self.scale]
        return resized(sample, fitting_size(sample.size, scale))


@dataclass(frozen=True)
class ChosenResize:
    """Fit an image into a long side, and a short side drawn from several.

    Attributes
    ----------
    short : tuple[int, ...]
        The short sides.
    long : int
        The long one.
    """

    short: tuple[int, ...]
    long: int

    def __call__(self, sample: DenseSample, draws: Draws) -> DenseSample:
        """Resize it."""
        short = self.short[draws.integer(0, len(self.short))]
        return resized(sample, fitting_size(sample.size, (self.long, short)))


@dataclass(frozen=True)
class Flip:
    """Mirror half of the images, left to right."""

    def __call__(self, sample: DenseSample, draws: Draws) -> DenseSample:
        """Mirror it or not."""
        return _mirrored(sample) if draws.heads() else sample


def _mirrored(sample: DenseSample) -> DenseSample:
    boxes = sample.boxes
    if boxes is not None:
        left, top, right, bottom = boxes.T
        width = np.float32(sample.size[1])
        boxes = np.stack([width - right, top, width - left, bottom], 1)
    return replace(
        sample,
        image=np.ascontiguousarray(sample.image[:, ::-1]),
        boxes=boxes,
        masks=None if sample.masks is None else np.ascontiguousarray(sample.masks[..., ::-1]),
        label_map=None if sample.label_map is None else sample.label_map[:, ::-1].copy(),
    )
