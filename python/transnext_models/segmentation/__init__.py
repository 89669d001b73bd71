"""Semantic segmentation: UPerNet and Mask2Former on TransNeXt, as published for ADE20K."""

from .inference import MULTI_SCALE, SLIDE, WHOLE, WHOLE_PADDED, Inference
from .models import Mask2Former, SegmentationModel, UPerNet, total_loss

__all__ = [
    "MULTI_SCALE",
    "SLIDE",
    "WHOLE",
    "WHOLE_PADDED",
    "Inference",
    "Mask2Former",
    "SegmentationModel",
    "UPerNet",
    "total_loss",
]
