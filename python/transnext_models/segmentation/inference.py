"""Inference as published: the whole image, sliding windows, several scales with mirror images.

Sources: windows and scales are those of MMSegmentation, with which the published results were
measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .models import SegmentationModel
from .row_maps import RowMap

__all__ = ["MULTI_SCALE", "SLIDE", "WHOLE", "WHOLE_PADDED", "Inference", "slide_windows"]


@dataclass(frozen=True)
class Inference:
    """How an image becomes scores.

    Attributes
    ----------
    mode : {"whole", "slide"}
        The image at once, or windows whose scores are averaged.
    window, stride : int
        Side of the windows in pixels, and their distance.
    divisor : int
        Whole images are padded with zeros at right and bottom to multiples of it.
    scale : (int, int)
        Images are resized to fit into (long side, short side), their proportions kept.
    ratios : sequence of float
        Factors on the scale; the softmaxes of several are averaged.
    mirror : bool
        Whether each view also counts mirrored.
    """

    mode: Literal["whole", "slide"] = "whole"
    window: int = 512
    stride: int = 341
    divisor: int = 1
    scale: tuple[int, int] = (2048, 512)
    ratios: Sequence[float] = (1.0,)
    mirror: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("whole", "slide"):
            raise ValueError(f"mode: got {self.mode!r}, needs 'whole' or 'slide'")
        if not 0 < self.stride <= self.window:
            raise ValueError(f"stride: got {self.stride}, needs 1…{self.window}, the window's side")
        if self.divisor < 1:
            raise ValueError(f"divisor: got {self.divisor}, needs at least 1")
        if not self.ratios or min(self.ratios) <= 0:
            raise ValueError(f"ratios: got {self.ratios!r}, needs positive numbers")

    @property
    def averages(self) -> bool:
        """Whether several views are averaged, so that scores are probabilities."""
        return self.mirror or len(self.ratios) > 1

    def scales(self) -> list[tuple[int, int]]:
        """Return the (long, short) sides to fit an image into, one for each ratio."""
        long, short = self.scale
        return [(int(long * ratio), int(short * ratio)) for ratio in self.ratios]

    def view_scores(self, model: SegmentationModel, images: Tensor) -> RowMap:
        """Return scores of normalised images ``[B, 3, H, W]`` at their size."""
        height, width = images.shape[2:]
        if self.mode == "slide":
            return RowMap.of(slide(model, images, self.window, self.stride))
        down, right = -height % self.divisor, -width % self.divisor
        padded = F.pad(images, (0, right, 0, down))
        return model.score_rows(padded).cropped((height, width))

    @torch.no_grad()
    def scores(
        self, model: SegmentationModel, views: Sequence[Tensor], size: tuple[int, int]
    ) -> RowMap:
        """Return the scores of images at their original size.

        Parameters
        ----------
        model : SegmentationModel
            In evaluation mode.
        views : sequence of Tensor
            The images once for each of :meth:`scales`, normalised, ``[B, 3, H_i, W_i]``.
        size : (int, int)
            Their original height and width.

        Returns
        -------
        RowMap
            ``[B, classes, H, W]``: the model's scores, or the mean of the views' softmaxes.
        """
        if len(views) != len(self.ratios):
            raise ValueError(f"views: got {len(views)}, needs one for each of {self.ratios}")
        if not self.averages:
            return self.view_scores(model, views[0]).resized(size)
        maps = []
        for images in views:
            maps.append(self.view_scores(model, images).resized(size).softmax())
            if self.mirror:
                mirrored = self.view_scores(model, images.flip(-1)).resized(size)
                maps.append(mirrored.softmax().mirrored())
        return RowMap.mean(maps)


WHOLE = Inference()
SLIDE = Inference("slide")  # UPerNet, single scale
WHOLE_PADDED = replace(WHOLE, divisor=32)  # Mask2Former
MULTI_SCALE = replace(WHOLE, ratios=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), mirror=True)  # UPerNet


def slide_windows(
    size: tuple[int, int], window: int = 512, stride: int = 341
) -> list[tuple[int, int, int, int]]:
    """Return windows (top, bottom, left, right) that cover an image of ``size`` (H, W).

    The last of each row and column is moved back inside; a smaller image is taken whole.
    """
    axes = []
    for side in size:
        starts = range(0, max(side - window, 0) + stride, stride)
        ends = [min(start + window, side) for start in starts]
        axes.append([(max(end - window, 0), end) for end in ends])
    return [(*rows, *columns) for rows, columns in itertools.product(*axes)]


@torch.no_grad()
def slide(model: SegmentationModel, images: Tensor, window: int = 512, stride: int = 341) -> Tensor:
    """Return scores ``[B, classes, H, W]``: those of the windows added, divided by their number."""
    height, width = images.shape[2:]
    total = images.new_zeros((images.shape[0], model.num_classes, height, width))
    count = images.new_zeros((height, width))
    for top, bottom, left, right in slide_windows((height, width), window, stride):
        scores = model.score_rows(images[:, :, top:bottom, left:right]).whole()
        total[:, :, top:bottom, left:right] += scores
        count[top:bottom, left:right] += 1
    return total / count
