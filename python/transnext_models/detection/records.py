"""What detectors are taught and what they find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..dense.found_objects import FoundObjects
from ..dense.run_lengths import RunLengths
from .mask_head import pasted_run_lengths

__all__ = ["Annotated", "Detections"]


@dataclass(frozen=True, eq=False)
class Annotated:
    """The objects of one training image, as it enters the network.

    Attributes
    ----------
    size : (int, int)
        Height and width of the image without padding.
    boxes : Tensor [G, 4]
        (left, top, right, bottom) in pixels.
    labels : int64 Tensor [G]
        Classes from 0.
    masks : bool Tensor [G, H, W], optional
        Of the padded image's size; Mask R-CNN needs them.
    """

    size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.labels)
        if tuple(self.boxes.shape) != (count, 4):
            raise ValueError(
                f"boxes: got {tuple(self.boxes.shape)}, needs ({count}, 4) for {count} labels"
            )
        if self.labels.is_floating_point() or self.labels.dim() != 1:
            raise ValueError(
                f"labels: got {self.labels.dtype} {tuple(self.labels.shape)}, needs integers [G]"
            )
        if self.masks is not None and (self.masks.dim() != 3 or len(self.masks) != count):
            raise ValueError(
                f"masks: got {tuple(self.masks.shape)}, needs [{count}, H, W] for {count} labels"
            )


class Detections(NamedTuple):
    """The objects found on one image, the most certain first.

    Attributes
    ----------
    boxes : Tensor [n, 4]
        (left, top, right, bottom) in pixels.
    scores : Tensor [n]
        In 0..1.
    labels : int64 Tensor [n]
        Classes from 0.
    masks : Tensor [n, H, W] or None
        Bool, of the original image's size; or, not pasted yet, probabilities of boxes in few cells.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None

    @classmethod
    def unknown(cls, like: Tensor) -> Detections:
        """Return what stands for outputs that are not finite: one score that is no number.

        So that damaged weights, or an overflow, do not look like an image without objects. The box
        is empty, since operators on boxes do not expect what is no number.
        """
        label = like.new_zeros(1, dtype=torch.int64)
        return cls(like.new_zeros(1, 4), like.new_full((1,), float("nan")), label)

    def found(self, image_id: int | str, size: tuple[int, int]) -> FoundObjects:
        """Return them as they are scored and stored: in NumPy, masks as run lengths.

        Parameters
        ----------
        image_id : int | str
            Of the image.
        size : (int, int)
            Its original height and width.
        """
        boxes, scores, labels = (
            values.detach().cpu().numpy() for values in (self.boxes, self.scores, self.labels)
        )
        masks = None
        if self.masks is not None and self.masks.is_floating_point():
            masks = pasted_run_lengths(self.masks, self.boxes, size)
        elif self.masks is not None:
            masks = tuple(RunLengths.of(mask.cpu().numpy()) for mask in self.masks)
        return FoundObjects(image_id, boxes, scores, labels, masks)
