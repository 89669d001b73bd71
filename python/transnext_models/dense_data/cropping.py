"""Steps that cut a part out of an image, its annotations with it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..dense.run_lengths import Size
from .draws import Draws
from .geometry import clipped
from .records import IGNORED
from .sample import DenseSample

__all__ = ["BalancedCrop", "BoxCrop", "cropped"]

_CLASSES = 256


def cropped(sample: DenseSample, offset: tuple[int, int], size: Size) -> DenseSample:
    """Cut out the part of (height, width) at (top, left).

    Boxes are clipped to it; those that then lie outside go, with their labels and masks.
    """
    top, left = offset
    bottom, right = min(top + size[0], sample.size[0]), min(left + size[1], sample.size[1])
    window = np.s_[..., top:bottom, left:right]
    masks, boxes, labels = sample.masks, sample.boxes, sample.labels
    if boxes is not None:
        moved = boxes - np.array([left, top, left, top], np.float32)
        boxes = clipped(moved, (bottom - top, right - left))
        kept = (boxes[:, 0] < right - left) & (boxes[:, 1] < bottom - top)
        kept &= (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
        boxes = boxes[kept]
        labels = None if labels is None else labels[kept]
        masks = None if masks is None else masks[kept]
    return replace(
        sample,
        image=np.ascontiguousarray(sample.image[top:bottom, left:right]),
        boxes=boxes,
        labels=labels,
        masks=None if masks is None else np.ascontiguousarray(masks[window]),
        label_map=None if sample.label_map is None else sample.label_map[window].copy(),
    )


@dataclass(frozen=True)
class BoxCrop:
    """Cut out a part whose sides are drawn, anywhere; it may hold no box.

    Attributes
    ----------
    sides : tuple[int, int]
        The shortest and the longest side; an image's own where that is less.
    """

    sides: tuple[int, int]

    def __call__(self, sample: DenseSample, draws: Draws) -> DenseSample:
        """Crop it."""
        shortest, longest = self.sides
        height, width = (
            draws.integer(min(side, shortest), min(side, longest) + 1) for side in sample.size
        )
        return cropped(sample, _place(sample.size, (height, width), draws), (height, width))


@dataclass(frozen=True)
class BalancedCrop:
    """Cut out a square that no class fills; the whole side where an image is shorter.

    Attributes
    ----------
    side : int
        Of the square.
    most : float
        The largest share of one class among the pixels of any; 1 takes what is drawn first.
    tries : int
        After so many places the next one is taken as it is.
    """

    side: int
    most: float = 0.75
    tries: int = 10

    def __call__(self, sample: DenseSample, draws: Draws) -> DenseSample:
        """Crop it."""
        size = (self.side, self.side)
        place = _place(sample.size, size, draws)
        if self.most < 1 and sample.label_map is not None:
            for _ in range(self.tries):
                top, left = place
                part = sample.label_map[top : top + self.side, left : left + self.side]
                if self._is_balanced(part):
                    break
                place = _place(sample.size, size, draws)
        return cropped(sample, place, size)

    def _is_balanced(self, labels: NDArray[np.uint8]) -> bool:
        counts = np.bincount(labels.reshape(-1), minlength=_CLASSES)
        counts[IGNORED] = 0
        return bool(np.count_nonzero(counts) > 1 and counts.max() < self.most * counts.sum())


def _place(size: Size, part: Size, draws: Draws) -> tuple[int, int]:
    """Draw where a part begins, top before left."""
    top, left = (
        draws.integer(0, max(whole - side, 0) + 1) for whole, side in zip(size, part, strict=True)
    )
    return top, left
