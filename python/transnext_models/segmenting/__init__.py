"""Segment image files with a model by name: labels, shares of classes, pictures."""

from .pictures import draw_classes, overlay
from .segmentor import ClassShare, Segmented, Segmentor

__all__ = ["ClassShare", "Segmented", "Segmentor", "draw_classes", "overlay"]
