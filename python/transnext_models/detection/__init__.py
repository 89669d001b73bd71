"""Detectors on TransNeXt backbones: Mask R-CNN and DINO."""

from .dino import DINO
from .mask_rcnn import MaskRCNN
from .records import Annotated, Detections

__all__ = ["DINO", "Annotated", "Detections", "MaskRCNN"]
