"""How well DINO's predictions fit what is annotated: matching costs and losses.

Source: Zhang et al., "DINO", ICLR 2023, section 4; focal loss: Lin et al., ICCV 2017, arXiv
1708.02002; generalised IoU: Rezatofighi et al., CVPR 2019, arXiv 1902.09630.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from ...dense.hungarian import assign
from ...dense.processes import mean_over_processes
from ..records import Annotated
from .denoising import Noised, unit_boxes

__all__ = ["Prediction", "denoising_losses", "matching_cost", "matching_losses"]

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss
CLASS_COST, BOX_COST, OVERLAP_COST = 2.0, 5.0, 2.0
CLASS_WEIGHT, BOX_WEIGHT, OVERLAP_WEIGHT = 1.0, 5.0, 2.0


class Prediction(NamedTuple):
    """What the queries of a batch answer.

    Attributes
    ----------
    classes : Tensor [B, N, classes]
        Logits, independent of each other.
    boxes : Tensor [B, N, 4]
        (cx, cy, w, h) in units of the image's sides without padding.
    """

    classes: Tensor
    boxes: Tensor


def matching_cost(classes: Tensor, boxes: Tensor, target: Annotated) -> Tensor:
    """Return the cost of giving each query of an image each object, float32 ``[N, G]``.

    Parameters
    ----------
    classes, boxes : Tensor
        ``[N, classes]`` logits, and boxes ``[N, 4]`` as in :class:`Prediction`.
    target : Annotated
    """
    probability = classes.float().sigmoid()[:, target.labels]
    present = -(probability + 1e-12).log() * ALPHA * (1 - probability) ** GAMMA
    absent = -(1 - probability + 1e-12).log() * (1 - ALPHA) * probability**GAMMA
    wanted = unit_boxes(target)
    distance = torch.cdist(boxes.float(), box_convert(wanted, "xyxy", "cxcywh"), p=1)
    overlap = generalized_box_iou(box_convert(boxes.float(), "cxcywh", "xyxy"), wanted)
    return CLASS_COST * (present - absent) + BOX_COST * distance - OVERLAP_COST * overlap


def matching_losses(prediction: Prediction, targets: Sequence[Annotated]) -> dict[str, Tensor]:
    """Match queries to objects and return ``loss_cls``, ``loss_bbox`` and ``loss_iou``.

    The class loss is divided by the matched queries, the box losses by the objects, of the batch
    and averaged over processes.
    """
    with torch.no_grad():
        matched = [
            assign(matching_cost(classes, boxes, target))
            for classes, boxes, target in zip(*prediction, targets, strict=True)
        ]
    return _losses(prediction, targets, matched)


def denoising_losses(
    prediction: Prediction, noised: Noised, targets: Sequence[Annotated]
) -> dict[str, Tensor]:
    """Return the losses of denoising queries, whose objects are known, by the same names.

    Negatives, and places that an image with fewer objects leaves empty, are to find nothing.
    """
    matched = []
    for target in targets:
        count = len(target.labels)
        objects = torch.arange(count, device=prediction.classes.device).repeat(noised.groups)
        matched.append((noised.positives(count).flatten(), objects))
    return _losses(prediction, targets, matched)


def _losses(
    prediction: Prediction,
    targets: Sequence[Annotated],
    matched: Sequence[tuple[Tensor, Tensor]],
) -> dict[str, Tensor]:
    """Return the losses of queries ``matched[image][0]`` that got objects ``matched[image][1]``."""
    classes = prediction.classes.float()
    wanted = torch.zeros_like(classes)
    found, truth = [], []
    for image, (target, (queries, objects)) in enumerate(zip(targets, matched, strict=True)):
        wanted[image, queries, target.labels[objects]] = 1
        found.append(prediction.boxes[image, queries].float())
        truth.append(unit_boxes(target)[objects])
    boxes, edges = torch.cat(found), torch.cat(truth)
    count = mean_over_processes(classes.new_tensor(float(len(boxes)))).clamp(min=1)
    overlap = _overlap(box_convert(boxes, "cxcywh", "xyxy"), edges)
    distance = (boxes - box_convert(edges, "xyxy", "cxcywh")).abs().sum()
    return {
        "loss_cls": CLASS_WEIGHT * _focal(classes, wanted) / count,
        "loss_bbox": BOX_WEIGHT * distance / count,
        "loss_iou": OVERLAP_WEIGHT * (1 - overlap).sum() / count,
    }


def _focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return the summed focal loss of logits against 0 and 1."""
    probability = logits.sigmoid()
    wrong = probability + wanted - 2 * probability * wanted
    weight = (ALPHA * wanted + (1 - ALPHA) * (1 - wanted)) * wrong**GAMMA
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (weight * entropy).sum()


def _overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the generalised IoU of pairs of boxes (left, top, right, bottom), ``[n]``."""
    eps = 1e-6
    inner = _area(
        torch.maximum(boxes[:, :2], others[:, :2]), torch.minimum(boxes[:, 2:], others[:, 2:])
    )
    outer = _area(
        torch.minimum(boxes[:, :2], others[:, :2]), torch.maximum(boxes[:, 2:], others[:, 2:])
    )
    union = (_area(boxes[:, :2], boxes[:, 2:]) + _area(others[:, :2], others[:, 2:]) - inner).clamp(
        min=eps
    )
    outer = outer.clamp(min=eps)
    return inner / union - (outer - union) / outer


def _area(low: Tensor, high: Tensor) -> Tensor:
    sides = (high - low).clamp(min=0)
    return sides[:, 0] * sides[:, 1]
