"""How well queries fit segments: matching costs and losses of Mask2Former.

Source: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR
2022, arXiv 2112.01527, section 3.3; the dice loss is Milletari et al., 3DV 2016, arXiv 1606.04797.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dense.hungarian import assign
from ..dense.point_sampling import sample_points, uncertain_points
from ..dense.processes import mean_over_processes
from .mask_decoder import QueryPrediction
from .pixel_losses import IGNORED

__all__ = ["Segments", "mask_losses", "matching_cost", "segments_of"]

CLASS_WEIGHT = 2.0
MASK_WEIGHT = 5.0  # of the binary cross-entropy
DICE_WEIGHT = 5.0
NOTHING_WEIGHT = 0.1  # of the class "nothing" in the cross-entropy
POINTS = 12544


class Segments(NamedTuple):
    """The segments of an image: ``classes [G]`` int64 and ``masks [G, H, W]`` bool."""

    classes: Tensor
    masks: Tensor


def segments_of(labels: Tensor) -> Segments:
    """Return one segment for each class in a label map ``[H, W]``, 255 being none."""
    classes = labels.unique()
    classes = classes[classes != IGNORED].long()
    return Segments(classes, labels == classes[:, None, None])


def matching_cost(classes: Tensor, masks: Tensor, targets: Tensor, target_masks: Tensor) -> Tensor:
    """Return the cost of giving each query each segment, ``[N, G]``.

    Parameters
    ----------
    classes, masks : Tensor
        Logits of the N queries: ``[N, classes + 1]``, and at P points ``[N, P]``.
    targets, target_masks : Tensor
        Of the G segments: classes ``[G]`` int64, and masks at the points ``[G, P]`` in 0..1.
    """
    classes, masks = _precise(classes), _precise(masks)
    target_masks = target_masks.to(masks.dtype)
    cost = -CLASS_WEIGHT * classes.softmax(-1)[:, targets]
    inside, outside = F.softplus(-masks), F.softplus(masks)  # -log p, -log (1 - p)
    entropy = inside @ target_masks.T + outside @ (1 - target_masks).T
    probabilities = masks.sigmoid()
    overlap = 2 * probabilities @ target_masks.T
    sizes = probabilities.sum(-1)[:, None] + target_masks.sum(-1)
    dice = 1 - (overlap + 1) / (sizes + 1)
    return cost + MASK_WEIGHT / masks.shape[1] * entropy + DICE_WEIGHT * dice


def mask_losses(
    prediction: QueryPrediction, segments: Sequence[Segments], points: int = POINTS
) -> dict[str, Tensor]:
    """Match queries to segments and return the losses ``loss_cls``, ``loss_mask``, ``loss_dice``.

    Parameters
    ----------
    prediction : QueryPrediction
        Of a batch.
    segments : sequence of Segments
        Of each image.
    points : int
        At which masks are compared: random ones for the matching, mostly uncertain ones for the
        losses.

    Notes
    -----
    Cross-entropy is a mean over queries by weight of their class; the mask losses are divided by
    the segments of the batch (one at least for each image), averaged over processes.
    """
    classes, masks = (_precise(x) for x in prediction)
    nothing = classes.shape[-1] - 1
    wanted = torch.full(classes.shape[:2], nothing, dtype=torch.int64, device=classes.device)
    chosen, targets = [], []
    for image, (target_classes, target_masks) in enumerate(segments):
        queries, matched = match(classes[image], masks[image], target_classes, target_masks, points)
        wanted[image, queries] = target_classes[matched]
        chosen.append(masks[image, queries])
        targets.append(target_masks[matched])

    weights = classes.new_ones(nothing + 1)
    weights[nothing] = NOTHING_WEIGHT
    loss_cls = F.cross_entropy(classes.flatten(0, 1), wanted.flatten(), weights)
    found = torch.cat(chosen)
    each = float(sum(max(len(queries), 1) for queries in chosen))
    count = mean_over_processes(found.new_tensor(each))
    at = uncertain_points(found.detach(), points)
    truth = torch.cat(
        [
            sample_points(masks_of_image.to(found.dtype), at_image)
            for masks_of_image, at_image in zip(
                targets, at.split([len(masks_of_image) for masks_of_image in targets]), strict=True
            )
        ]
    )
    logits = sample_points(found, at)
    probabilities = logits.sigmoid()
    overlap = 2 * (probabilities * truth).sum(-1)
    dice = 1 - (overlap + 1) / (probabilities.sum(-1) + truth.sum(-1) + 1)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="sum")
    return {
        "loss_cls": CLASS_WEIGHT * loss_cls,
        "loss_mask": MASK_WEIGHT * entropy / (count * points),
        "loss_dice": DICE_WEIGHT * dice.sum() / count,
    }


@torch.no_grad()
def match(
    classes: Tensor, masks: Tensor, targets: Tensor, target_masks: Tensor, points: int = POINTS
) -> tuple[Tensor, Tensor]:
    """Return the queries of one image that get a segment, and which; at random points."""
    masks = _precise(masks)
    at = torch.rand(1, points, 2, device=masks.device, dtype=masks.dtype)
    truth = sample_points(target_masks.to(masks.dtype), at)
    return assign(matching_cost(classes, sample_points(masks, at), targets, truth))


def _precise(x: Tensor) -> Tensor:
    """Return logits in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
