"""CUDA graphs: a model's forward pass, or a training step, recorded once and replayed."""

from __future__ import annotations

from .forward import CapturedModel, capture
from .training import CapturedTraining, capture_training

__all__ = ["CapturedModel", "CapturedTraining", "capture", "capture_training"]
