"""Detect objects on images with a model by name: boxes, masks, classes, scores, pictures."""

from .detector import Detected, Detector
from .objects import DetectedObject

__all__ = ["Detected", "DetectedObject", "Detector"]
