"""Detectors on TransNeXt backbones: DINO."""

from .dino import DINO
from .records import Annotated, Detections

__all__ = ["DINO", "Annotated", "Detections"]
