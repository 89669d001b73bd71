"""Segment image files with a model by name: labels, shares of classes, pictures."""

from .pictures import colours, overlay
from .segmentor import Segmented, Segmentor

__all__ = ["Segmented", "Segmentor", "colours", "overlay"]
