"""Images as the sets' protocols prepare them: from the file to the model's tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image

from ..classification.preprocess import Preprocess

__all__ = ["CorruptedPreprocess", "Prepare"]

_STORED = 224  # side of ImageNet-C's images


class Prepare(Protocol):
    """From a decoded RGB image to float32 ``[3, size, size]``."""

    @property
    def size(self) -> int:
        """Side of the result."""

    @property
    def crop_mode(self) -> str:
        """How the image is brought to a square."""

    @property
    def crop_pct(self) -> float:
        """Share of the resized image that is kept."""

    @property
    def interpolation(self) -> str:
        """Filter of the resizing."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return the model's input."""


@dataclass(frozen=True, slots=True)
class CorruptedPreprocess:
    """ImageNet-C's: its images were made at 224x224, so there is nothing to resize.

    The centre of 224x224 is taken; for a model of another size it is resized, which no publication
    does.
    """

    size: int
    mean: Sequence[float]
    std: Sequence[float]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0

    @property
    def crop_mode(self) -> str:
        """What rows say."""
        return "center-224" if self.size == _STORED else f"center-224-to-{self.size}"

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return the image as float32 ``[3, size, size]``."""
        width, height = image.size
        if min(width, height) < _STORED:
            raise ValueError(f"{width}x{height} pixels, needs {_STORED}x{_STORED} at least")
        left, top = round((width - _STORED) / 2), round((height - _STORED) / 2)
        image = image.crop((left, top, left + _STORED, top + _STORED))
        whole = Preprocess(self.size, self.mean, self.std, "squash", 1.0, self.interpolation)
        return whole(image)
