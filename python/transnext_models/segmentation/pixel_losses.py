"""Per-pixel cross-entropy and accuracy, as UPerNet was trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["IGNORED", "pixel_accuracy", "pixel_cross_entropy"]

IGNORED = 255  # the label of pixels that belong to no class


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over ALL pixels, ignored ones counting as zero.

    As published: the more pixels of an image are ignored, the smaller its loss.

    Parameters
    ----------
    logits : Tensor
        ``[B, classes, h, w]``, resized bilinearly to the labels.
    labels : Tensor
        ``[B, H, W]`` int64, 255 where ignored.
    """
    resized = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    precise = torch.promote_types(resized.dtype, torch.float32)
    total = F.cross_entropy(resized.to(precise), labels, ignore_index=IGNORED, reduction="sum")
    return total / labels.numel()


@torch.no_grad()
def pixel_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of pixels with a label that are right, in percent; 0 without any.

    Arguments as those of :func:`pixel_cross_entropy`.
    """
    resized = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    labelled = labels != IGNORED
    right = ((resized.argmax(1) == labels) & labelled).sum()
    return 100.0 * right / labelled.sum().clamp(min=1)
