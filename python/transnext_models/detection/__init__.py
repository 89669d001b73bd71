"""Detectors on TransNeXt backbones: Mask R-CNN."""

from .mask_rcnn import MaskRCNN
from .records import Annotated, Detections

__all__ = ["Annotated", "Detections", "MaskRCNN"]
