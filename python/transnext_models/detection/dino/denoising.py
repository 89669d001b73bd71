"""Denoising queries: annotated boxes and labels with noise, which training is to undo.

Source: Zhang et al., "DINO", ICLR 2023, section 3.3 (contrastive denoising); Li et al., "DN-DETR",
CVPR 2022, arXiv 2203.01305.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from ..records import Annotated
from .decoder import logit

__all__ = ["DenoisingQueries", "Noised", "unit_boxes"]


class Noised(NamedTuple):
    """Denoising queries of a batch, in groups that do not see each other.

    Each group holds ``2 · most`` queries: `most` with little noise (positives), then as many with
    more (negatives), most being the largest number of objects of an image.

    Attributes
    ----------
    queries : Tensor [B, groups · 2 · most, C]
    boxes : Tensor [B, groups · 2 · most, 4]
        Logits of (cx, cy, w, h).
    groups, most : int
    """

    queries: Tensor
    boxes: Tensor
    groups: int
    most: int

    @property
    def size(self) -> int:
        """Number of queries of an image."""
        return self.queries.shape[1]

    def positives(self, objects: int) -> Tensor:
        """Return the queries that stand for each of an image's objects, ``[groups, objects]``."""
        first = torch.arange(self.groups, device=self.queries.device) * 2 * self.most
        return first[:, None] + torch.arange(objects, device=self.queries.device)

    def mask(self, others: int) -> Tensor:
        """Return which queries may not be looked at: bool ``[size + others, size + others]``.

        No group sees another, and the others, which follow, see none.
        """
        device = self.queries.device
        each = max(2 * self.most, 1)
        group = torch.arange(self.size, device=device) // each
        group = torch.cat((group, group.new_full((others,), -1)))
        return (group[None] >= 0) & (group[:, None] != group[None])


class DenoisingQueries(nn.Module):
    """Make denoising queries.

    Parameters
    ----------
    num_classes, embed_dim : int
    queries : int
        Positives of an image in all groups, about; as many negatives come with them.
    label_noise, box_noise : float
        Twice the share of labels that are redrawn; and of a box's half sides, how far each edge of
        a positive moves at most (those of a negative one to two times as far).
    """

    def __init__(
        self,
        num_classes: int,
        embed_dim: int = 256,
        *,
        queries: int = 100,
        label_noise: float = 0.5,
        box_noise: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.queries = queries
        self.label_noise = label_noise
        self.box_noise = box_noise
        self.label_embedding = nn.Embedding(num_classes, embed_dim)

    def forward(self, targets: Sequence[Annotated]) -> Noised:
        """Return the denoising queries of a batch; noise is drawn from PyTorch's generator."""
        counts = [len(target.labels) for target in targets]
        most = max(counts, default=0)
        groups = max(1, self.queries // most) if most else 1
        weight = self.label_embedding.weight
        labels = torch.cat([target.labels for target in targets]).repeat(2 * groups)
        boxes = torch.cat([unit_boxes(target) for target in targets]).repeat(2 * groups, 1)
        image = torch.repeat_interleave(
            torch.arange(len(targets)), torch.tensor(counts, dtype=torch.int64)
        )
        place = torch.cat([torch.arange(count) for count in counts]).to(torch.int64)
        image, place = image.to(weight.device), place.to(weight.device)
        half = torch.arange(2 * groups, device=weight.device).repeat_interleave(len(place))
        slot = half * most + place.repeat(2 * groups)

        shape = (len(targets), 2 * groups * most)
        queries = weight.new_zeros((*shape, weight.shape[1]))
        noised = boxes.new_zeros((*shape, 4))
        at = (image.repeat(2 * groups), slot)
        queries = queries.index_put(at, self.label_embedding(self._noised_labels(labels)))
        noised = noised.index_put(at, logit(self._noised_boxes(boxes, half % 2 == 1), 1e-3))
        return Noised(queries, noised, groups, most)

    def _noised_labels(self, labels: Tensor) -> Tensor:
        """Redraw a part of the labels."""
        redrawn = torch.rand_like(labels, dtype=torch.float32) < self.label_noise / 2
        (at,) = torch.nonzero(redrawn, as_tuple=True)
        return labels.index_put((at,), torch.randint_like(labels[at], self.num_classes))

    def _noised_boxes(self, boxes: Tensor, negative: Tensor) -> Tensor:
        """Move the edges of boxes (left, top, right, bottom); return (cx, cy, w, h)."""
        sign = 2.0 * torch.randint_like(boxes, 2) - 1
        far = (torch.rand_like(boxes) + negative[:, None]) * sign
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        moved = (boxes + far * sides * (self.box_noise / 2)).clamp(0, 1)
        return box_convert(moved, "xyxy", "cxcywh")


def unit_boxes(target: Annotated) -> Tensor:
    """Return boxes (left, top, right, bottom) in units of the image's sides, float32 ``[G, 4]``."""
    height, width = target.size
    return target.boxes.float() / target.boxes.new_tensor((width, height, width, height)).float()
