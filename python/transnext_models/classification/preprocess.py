"""Prepare images exactly as the published models were evaluated, with Pillow alone.

Below 384 pixels: resize the short side to ``floor(size / 0.875)``, crop the middle. From 384 on:
warp the whole image to the square. Bicubic, in 8 bits, with Pillow's antialiasing; then scale to
0..1 and normalise. This is what torchvision's and timm's transforms do on PIL images, value for
value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ..images.picture import Picture, pixels_between
from ..variants import CROP_MODES, MIN_SIZE, Checkpoint

WARP_FROM = 384
_CROP_PCT = 0.875
_INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Beyond this many pixels only the part that the crop keeps is resized: a 1x20000 strip would
# otherwise become an image of 1.3 thousand million pixels on its way.
_MOST_RESIZED_PIXELS = 64 * 1024 * 1024
_RGB_BYTES = 4  # of a pixel in Pillow's memory


@dataclass(frozen=True, slots=True)
class Preprocess:
    """From an RGB image to the tensor that a model evaluates.

    Attributes
    ----------
    size : int
        Side of the square result, at least 32.
    mean, std : Sequence[float]
        Of the channels, in 0..1.
    crop_mode : str
        ``center`` resizes the short side to ``floor(size / crop_pct)`` and crops the middle;
        ``squash`` warps to the square of that side, then crops the middle.
    crop_pct, interpolation : float, str
        See `crop_mode`; ``bicubic`` and Pillow's other filters.
    """

    size: int
    mean: Sequence[float]
    std: Sequence[float]
    crop_mode: str = "center"
    crop_pct: float = _CROP_PCT
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < MIN_SIZE:
            raise ValueError(f"size: got {self.size!r}, needs an int of at least {MIN_SIZE}")
        if self.crop_mode not in CROP_MODES:
            needs = " or ".join(map(repr, CROP_MODES))
            raise ValueError(f"crop_mode: got {self.crop_mode!r}, needs {needs}")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct: got {self.crop_pct!r}, needs more than 0 and at most 1")
        if self.interpolation not in _INTERPOLATIONS:
            known = ", ".join(_INTERPOLATIONS)
            raise ValueError(f"interpolation: got {self.interpolation!r}, needs one of {known}")

    @classmethod
    def of(cls, checkpoint: Checkpoint, size: int | None = None) -> Preprocess:
        """Return the preprocessing of published weights, at their image size or another.

        At another size the published rule decides between crop and warp, except for weights that
        were trained on whole, warped images of a small size.
        """
        own = checkpoint.img_size
        size = own if size is None else size
        mode, pct = checkpoint.crop_mode, checkpoint.crop_pct
        if size != own and (mode == "center" or own >= WARP_FROM):
            mode, pct = ("squash", 1.0) if size >= WARP_FROM else ("center", _CROP_PCT)
        return cls(
            size,
            checkpoint.mean,
            checkpoint.std,
            mode,
            pct,
            checkpoint.interpolation,
        )

    def __call__(self, image: Image.Image | Picture) -> torch.Tensor:
        """Return `image` (any mode that converts to RGB) as float32 ``[3, size, size]``."""
        if isinstance(image, Image.Image):
            image = image.convert("RGB")
        pixels = np.asarray(self._cropped(image))
        tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).to(torch.float32).div_(255)
        mean = torch.tensor(self.mean, dtype=torch.float32).view(-1, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float32).view(-1, 1, 1)
        return tensor.sub_(mean).div_(std)

    def working_bytes(self, size: tuple[int, int]) -> int:
        """Return the memory that it takes beside a `Picture` of (width, height)."""
        width, height = self._resized_size(size)
        if width * height > _MOST_RESIZED_PIXELS:
            width = height = self.size
        return _RGB_BYTES * (width * height + pixels_between(size, (width, height)))

    def _cropped(self, image: Image.Image | Picture) -> Image.Image:
        width, height = self._resized_size(image.size)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        method = _INTERPOLATIONS[self.interpolation]
        if width * height > _MOST_RESIZED_PIXELS:
            across, down = image.width / width, image.height / height
            box = (
                left * across,
                top * down,
                min((left + self.size) * across, image.width),
                min((top + self.size) * down, image.height),
            )
            return image.resize((self.size, self.size), method, box=box)
        if (width, height) != image.size:
            image = image.resize((width, height), method)
        return image.crop((left, top, left + self.size, top + self.size))

    def _resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return (width, height) before the crop for an image of (width, height)."""
        side = math.floor(self.size / self.crop_pct)
        if self.crop_mode == "squash":
            return side, side
        width, height = size
        if width <= height:
            return side, int(side * height / width)
        return int(side * width / height), side
