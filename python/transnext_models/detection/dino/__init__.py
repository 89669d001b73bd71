"""DINO: a detection transformer without anchors and without suppression of doubles.

Source: Zhang et al., "DINO: DETR with Improved DeNoising Anchor Boxes for End-to-End Object
Detection", ICLR 2023, arXiv 2203.03605.
"""

from .model import DINO

__all__ = ["DINO"]
