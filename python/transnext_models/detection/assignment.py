"""Which annotated object a box is to find, and which boxes a loss looks at.

Source: Ren et al., "Faster R-CNN", NeurIPS 2015, arXiv 1506.01497, sections 3.1.2 and 3.1.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

__all__ = ["BACKGROUND", "NEITHER", "Assigner", "Sample", "Sampler"]

BACKGROUND, NEITHER = -1, -2


@dataclass(frozen=True)
class Assigner:
    """Assign by overlap (intersection over union).

    Attributes
    ----------
    positive, negative : float
        A box is an object's from ``positive`` on, background below ``negative``.
    least_best : float
        The boxes that overlap an object most are its in any case from this overlap on.
    """

    positive: float
    negative: float
    least_best: float

    @torch.no_grad()
    def __call__(self, boxes: Tensor, targets: Tensor) -> Tensor:
        """Return the index of each box's object, ``BACKGROUND`` or ``NEITHER``.

        Parameters
        ----------
        boxes, targets : Tensor
            ``[n, 4]`` and, annotated, ``[G, 4]``.

        Returns
        -------
        Tensor
            int64 ``[n]``.
        """
        found = torch.full((len(boxes),), BACKGROUND, device=boxes.device)
        if not len(targets) or not len(boxes):
            return found
        overlaps = box_iou(targets.float(), boxes.float())  # [G, n]
        best, index = overlaps.max(0)
        found[best >= self.negative] = NEITHER
        found = torch.where(best >= self.positive, index, found)
        best_of_object = overlaps.amax(1, keepdim=True)
        is_best = (overlaps == best_of_object) & (best_of_object >= self.least_best)
        # Of several objects with the same best box, the last gets it.
        order = torch.arange(len(targets), device=boxes.device)[:, None]
        claimed = torch.where(is_best, order, -1).amax(0)
        return torch.where(claimed >= 0, claimed, found)


@dataclass(frozen=True, eq=False)
class Sample:
    """Which boxes a loss looks at.

    Attributes
    ----------
    positive, negative : Tensor
        Indices of boxes.
    objects : Tensor
        Index of the object of each positive box.
    """

    positive: Tensor
    negative: Tensor
    objects: Tensor

    def __len__(self) -> int:
        return len(self.positive) + len(self.negative)


@dataclass(frozen=True)
class Sampler:
    """Take boxes at random.

    Attributes
    ----------
    count : int
        Positive and negative boxes together.
    positive_share : float
        At most so many of them are positive.
    """

    count: int
    positive_share: float

    def __call__(self, assigned: Tensor) -> Sample:
        """Sample from what an :class:`Assigner` returned, with PyTorch's random numbers."""
        positive = _some((assigned >= 0).nonzero()[:, 0], int(self.count * self.positive_share))
        negative = (assigned == BACKGROUND).nonzero()[:, 0]
        negative = _some(negative, self.count - len(positive))
        return Sample(positive, negative, assigned[positive])


def _some(indices: Tensor, count: int) -> Tensor:
    """Return at most ``count`` of the indices, chosen at random."""
    if len(indices) <= count:
        return indices
    return indices[torch.randperm(len(indices), device=indices.device)[:count]]
