"""The region proposal network: where there may be an object, of whatever class.

Source: Ren et al., "Faster R-CNN", NeurIPS 2015, arXiv 1506.01497, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from ..dense.winograd import Convolution3x3
from .anchors import ANCHOR_SCALE, RATIOS, STRIDES, anchors_of_level, valid_anchors
from .assignment import Assigner, Sampler
from .box_deltas import clip_boxes, decode_boxes, encode_boxes

__all__ = ["ProposalHead", "ProposalSettings", "Proposals"]


@dataclass(frozen=True)
class ProposalSettings:
    """How many proposals are made.

    Attributes
    ----------
    per_level : int
        The best of each level that go on.
    total : int
        The best that are left after suppression.
    overlap : float
        A worse box of the same level that overlaps a better one more is suppressed.
    """

    per_level: int = 1000
    total: int = 1000
    overlap: float = 0.7


@dataclass(frozen=True, eq=False)
class Proposals:
    """Proposals of one image, the best first.

    Attributes
    ----------
    boxes, scores : Tensor
        ``[n, 4]`` in pixels, and ``[n]``.
    """

    boxes: Tensor
    scores: Tensor


class ProposalHead(nn.Module):
    """Score three anchors on each cell of each level, and say how to move them.

    Parameters
    ----------
    channels : int
        Of the maps.
    anchor_scale : int
        Side of the square anchor in strides.
    samples : int
        Anchors of an image that the loss looks at.
    """

    assigner = Assigner(positive=0.7, negative=0.3, least_best=0.3)

    def __init__(
        self, channels: int = 256, *, anchor_scale: int = ANCHOR_SCALE, samples: int = 256
    ) -> None:
        super().__init__()
        self.anchor_scale = anchor_scale
        self.rpn_conv = Convolution3x3(channels, channels)
        self.rpn_cls = nn.Conv2d(channels, len(RATIOS), 1)
        self.rpn_reg = nn.Conv2d(channels, 4 * len(RATIOS), 1)
        for conv in (self.rpn_conv, self.rpn_cls, self.rpn_reg):
            nn.init.normal_(conv.weight, std=0.01)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        self.sampler = Sampler(samples, 0.5)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return logits ``[B, 3, H_i, W_i]`` and moves ``[B, 12, H_i, W_i]`` of the maps.

        The twelve channels are those of ratio 0.5 (x, y, log width, log height), then 1, then 2.
        """
        logits, moves = [], []
        for x in maps:
            x = self.rpn_conv(x).relu_()
            logits.append(self.rpn_cls(x))
            moves.append(self.rpn_reg(x))
        return logits, moves

    def anchors(self, shape: tuple[int, int], stride: int, like: Tensor) -> Tensor:
        """Return a level's anchors; see :func:`anchors_of_level`."""
        return anchors_of_level(shape, stride, like, self.anchor_scale)

    @torch.no_grad()
    def proposals(
        self,
        logits: Sequence[Tensor],
        moves: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        settings: ProposalSettings,
    ) -> list[Proposals]:
        """Return each image's proposals.

        Parameters
        ----------
        logits, moves : sequence of Tensor
            What :meth:`forward` returned.
        sizes : sequence of (int, int)
            Height and width of each image without padding; boxes end there.
        """
        found = []
        for index, size in enumerate(sizes):
            boxes, scores, levels = [], [], []
            for level, (x, move, stride) in enumerate(zip(logits, moves, STRIDES, strict=True)):
                score = _by_cell(x[index], 1)[:, 0].float().sigmoid()
                best = score.topk(min(settings.per_level, len(score)))
                anchors = self.anchors((x.shape[2], x.shape[3]), stride, x)[best.indices]
                moved = decode_boxes(anchors, _by_cell(move[index], 4)[best.indices])
                boxes.append(clip_boxes(moved, size))
                scores.append(best.values)
                levels.append(torch.full_like(best.indices, level))
            box, score, of_level = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
            real = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
            box, score, of_level = box[real], score[real], of_level[real]
            kept = batched_nms(box, score, of_level, settings.overlap)[: settings.total]
            found.append(Proposals(box[kept], score[kept]))
        return found

    def loss(
        self,
        logits: Sequence[Tensor],
        moves: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        boxes: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Return ``loss_rpn_cls`` and ``loss_rpn_bbox``.

        Both are sums over the sampled anchors of all images divided by their number.

        Parameters
        ----------
        sizes : sequence of (int, int)
            Height and width of each image, with the padding that it has for itself.
        boxes : sequence of Tensor
            Annotated, ``[G, 4]`` of each image.
        """
        shapes = [(x.shape[2], x.shape[3]) for x in logits]
        like = logits[0]
        anchors = torch.cat(
            [self.anchors(s, d, like) for s, d in zip(shapes, STRIDES, strict=True)]
        )
        class_loss = box_loss = like.new_zeros((), dtype=torch.float32)
        count = 0
        for index, (size, targets) in enumerate(zip(sizes, boxes, strict=True)):
            valid = torch.cat(
                [valid_anchors(s, d, size, like) for s, d in zip(shapes, STRIDES, strict=True)]
            ).nonzero()[:, 0]
            sample = self.sampler(self.assigner(anchors[valid], targets))
            positive, negative = valid[sample.positive], valid[sample.negative]
            logit = torch.cat([_by_cell(x[index], 1)[:, 0] for x in logits]).float()
            move = torch.cat([_by_cell(x[index], 4) for x in moves]).float()
            chosen = torch.cat((positive, negative))
            wanted = torch.zeros_like(logit[chosen])
            wanted[: len(positive)] = 1
            class_loss = class_loss + F.binary_cross_entropy_with_logits(
                logit[chosen], wanted, reduction="sum"
            )
            wanted = encode_boxes(anchors[positive], targets[sample.objects])
            box_loss = box_loss + (move[positive] - wanted).abs().sum()
            # As published, an image without anchors of a kind counts as if it had one.
            count += max(len(positive), 1) + max(len(negative), 1)
        return {"loss_rpn_cls": class_loss / count, "loss_rpn_bbox": box_loss / count}


def _by_cell(x: Tensor, numbers: int) -> Tensor:
    """``[3 · numbers, H, W]`` to ``[H · W · 3, numbers]``."""
    return x.permute(1, 2, 0).reshape(-1, numbers)
