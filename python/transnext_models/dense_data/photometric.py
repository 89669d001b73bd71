"""Photometric distortion: brightness, contrast, saturation and hue, each every second time.

Values are cut off to 8 bits after every part, as in the published training. Source: Liu et al.,
"SSD: Single Shot MultiBox Detector", ECCV 2016, arXiv 1512.02325, in MMSegmentation's ranges.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .draws import Draws
from .opencv_colours import HUES, hsv_to_rgb, rgb_to_hsv
from .sample import DenseSample

__all__ = ["PhotometricDistortion"]


@dataclass(frozen=True)
class PhotometricDistortion:
    """Distort the colours of an image.

    Attributes
    ----------
    brightness : float
        The most that is added or taken away, of 255.
    contrast, saturation : tuple[float, float]
        The smallest and the largest factor.
    hue : int
        The most by which hue is turned, of 180; the other way up to one less.
    """

    brightness: float = 32
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: int = 18

    def __call__(self, sample: DenseSample, draws: Draws) -> DenseSample:
        """Distort it; whether contrast comes first or last is drawn too."""
        image = sample.image
        if draws.heads():
            image = _scaled(image, 1, draws.uniform(-self.brightness, self.brightness))
        contrast_first = draws.heads()
        if contrast_first:
            image = self._with_contrast(image, draws)
        if draws.heads():
            hsv = rgb_to_hsv(image)
            hsv[..., 1] = _scaled(hsv[..., 1], draws.uniform(*self.saturation), 0)
            image = hsv_to_rgb(hsv)
        if draws.heads():
            hsv = rgb_to_hsv(image)
            turn = draws.integer(-self.hue, self.hue)
            hsv[..., 0] = (hsv[..., 0].astype(np.int16) + turn) % HUES
            image = hsv_to_rgb(hsv)
        if not contrast_first:
            image = self._with_contrast(image, draws)
        return replace(sample, image=image)

    def _with_contrast(self, image: NDArray[np.uint8], draws: Draws) -> NDArray[np.uint8]:
        return _scaled(image, draws.uniform(*self.contrast), 0) if draws.heads() else image


def _scaled(values: NDArray[np.uint8], factor: float, offset: float) -> NDArray[np.uint8]:
    """Return ``factor · values + offset`` in float32, within 0…255, cut off."""
    result = values.astype(np.float32) * np.float32(factor) + np.float32(offset)
    return np.clip(result, 0, 255).astype(np.uint8)
