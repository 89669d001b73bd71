"""The second stage: the class of a proposal, and its box once more.

Source: Lin et al., "Feature Pyramid Networks", CVPR 2017, arXiv 1612.03144, section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from .assignment import Sample
from .box_deltas import STANDARD_DEVIATIONS, clip_boxes, decode_boxes, encode_boxes
from .records import Detections

__all__ = ["BoxHead"]

_SIDE = 7


class BoxHead(nn.Module):
    """Two fully connected layers, then logits of classes and a box for each class.

    Parameters
    ----------
    num_classes : int
        Classes without the background, whose logit is the last.
    channels, hidden : int
        Of the maps, and of the fully connected layers.
    """

    side = _SIDE

    def __init__(self, num_classes: int, channels: int = 256, hidden: int = 1024) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.shared_fcs = nn.ModuleList(
            (nn.Linear(channels * _SIDE * _SIDE, hidden), nn.Linear(hidden, hidden))
        )
        self.fc_cls = nn.Linear(hidden, num_classes + 1)
        self.fc_reg = nn.Linear(hidden, 4 * num_classes)
        for layer in self.shared_fcs:
            nn.init.xavier_uniform_(layer.get_parameter("weight"))
        nn.init.normal_(self.fc_cls.weight, std=0.01)
        nn.init.normal_(self.fc_reg.weight, std=0.001)
        for layer in (*self.shared_fcs, self.fc_cls, self.fc_reg):
            nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """``[n, C, 7, 7]`` to logits ``[n, classes + 1]`` and moves ``[n, 4 · classes]``."""
        x = regions.flatten(1)
        for layer in self.shared_fcs:
            x = layer(x).relu()
        return self.fc_cls(x), self.fc_reg(x)

    @torch.no_grad()
    def detections(
        self,
        logits: Tensor,
        moves: Tensor,
        proposals: Tensor,
        size: tuple[int, int],
        *,
        least_score: float = 0.05,
        overlap: float = 0.5,
        most: int = 100,
    ) -> Detections:
        """Return what is found in one image.

        Parameters
        ----------
        logits, moves, proposals : Tensor
            ``[n, classes + 1]``, ``[n, 4 · classes]`` and ``[n, 4]``.
        size : (int, int)
            Height and width of the image; boxes end there.
        least_score : float
            Only higher scores count.
        overlap : float
            A worse box of the same class that overlaps a better one more is suppressed.
        most : int
            The best that are kept.
        """
        scores = logits.float().softmax(-1)[:, :-1]
        boxes = decode_boxes(proposals[:, None], moves.unflatten(1, (-1, 4)), STANDARD_DEVIATIONS)
        if not scores.isfinite().all():
            return Detections.unknown(scores)
        rows, labels = (scores > least_score).nonzero(as_tuple=True)
        found, score = clip_boxes(boxes[rows, labels], size), scores[rows, labels]
        kept = batched_nms(found, score, labels, overlap)[:most]
        return Detections(found[kept], score[kept], labels[kept])

    def loss(
        self,
        logits: Tensor,
        moves: Tensor,
        samples: Sequence[Sample],
        proposals: Sequence[Tensor],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Return ``loss_cls``, ``loss_bbox``, and the accuracy ``acc`` in percent.

        Parameters
        ----------
        logits, moves : Tensor
            Of the sampled proposals of all images: each image's positive ones, then its negative.
        samples, proposals : sequence
            What was sampled of which proposals ``[n, 4]``.
        boxes, labels : sequence of Tensor
            Annotated, ``[G, 4]`` and ``[G]`` of each image.
        """
        logits, moves = logits.float(), moves.float().unflatten(1, (-1, 4))
        wanted = torch.cat(
            [_classes(s, label, self.num_classes) for s, label in zip(samples, labels, strict=True)]
        )
        positive = (wanted < self.num_classes).nonzero()[:, 0]
        differences = torch.cat(
            [
                encode_boxes(found[s.positive], box[s.objects], STANDARD_DEVIATIONS)
                for s, found, box in zip(samples, proposals, boxes, strict=True)
            ]
        )
        count = max(len(wanted), 1)
        moved = moves[positive, wanted[positive]]
        right = (logits.argmax(-1) == wanted).sum()
        return {
            "loss_cls": F.cross_entropy(logits, wanted, reduction="sum") / count,
            "loss_bbox": (moved - differences).abs().sum() / count,
            "acc": 100.0 * right / count,
        }


def _classes(sample: Sample, labels: Tensor, background: int) -> Tensor:
    """Return the classes of sampled proposals, positive ones first."""
    negative = torch.full_like(sample.negative, background)
    return torch.cat((labels[sample.objects].to(negative.dtype), negative))
