"""Corruptions made on the fly, for people without ImageNet-C's images.

Source: Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261, by the package ``corrupt-tta``. Its
images are not those of ImageNet-C: motion blur is made without ImageMagick, elastic transform has a
constant of its own, and the random numbers are others. So results are labelled "generated" and have
no mean corruption error. As the stored images are, these are crops of 224x224 saved as JPEG of
quality 85.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transnext_ops.distribution import install_hint

__all__ = ["Corruption", "check_installed"]

_SIDE, _RESIZED, _QUALITY = 224, 256, 85
_IMPULSE_AMOUNTS = (0.03, 0.06, 0.09, 0.17, 0.27)


def check_installed() -> None:
    """Import what makes corruptions.

    Raises
    ------
    RuntimeError
        If it is not installed, or cannot be imported.
    """
    try:
        import corrupt_tta  # noqa: F401
    except ImportError as error:
        raise RuntimeError(
            f"--corruptions generate needs the package corrupt-tta ({error}): "
            f"{install_hint('corruptions')}"
        ) from error


@dataclass(frozen=True, slots=True)
class Corruption:
    """One corruption at one severity, the same for an image whenever it is made.

    Attributes
    ----------
    name : str
        One of the 15 of ImageNet-C.
    severity : int
        1 to 5.
    """

    name: str
    severity: int

    def __call__(self, image: Image.Image, path: str) -> Image.Image:
        """Return the corrupted centre of `image`, RGB 224x224.

        The random numbers depend on the image's name and class folder, the corruption and the
        severity, and on nothing else.
        """
        clean = np.asarray(_centre(image))
        seed = self._seed(path)
        state = np.random.get_state()  # noqa: NPY002 -- the package draws from this generator
        try:
            np.random.seed(seed)  # noqa: NPY002
            changed = self._changed(clean, seed)
        finally:
            np.random.set_state(state)  # noqa: NPY002
        file = io.BytesIO()
        Image.fromarray(np.uint8(np.clip(changed, 0, 255))).save(file, "JPEG", quality=_QUALITY)
        return Image.open(file).convert("RGB")

    def _changed(self, clean: NDArray[np.uint8], seed: int) -> NDArray[Any]:
        if self.name == "impulse_noise":  # the package's own has random numbers of its own
            from skimage.util import random_noise

            amount = _IMPULSE_AMOUNTS[self.severity - 1]
            noisy = random_noise(
                clean / 255.0, mode="s&p", amount=amount, rng=np.random.default_rng(seed)
            )
            return np.clip(noisy, 0, 1) * 255
        from corrupt_tta import corrupt

        changed: NDArray[Any] = corrupt(clean, self.severity, self.name)
        return changed

    def _seed(self, path: str) -> int:
        image = "/".join(PurePosixPath(path).parts[-2:])
        digest = hashlib.sha256(f"{image}\0{self.name}\0{self.severity}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


def _centre(image: Image.Image) -> Image.Image:
    """Return the image as ImageNet-C's authors prepared it: Resize(256), CenterCrop(224)."""
    width, height = image.size
    if width <= height:
        size = _RESIZED, int(_RESIZED * height / width)
    else:
        size = int(_RESIZED * width / height), _RESIZED
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - _SIDE) / 2), round((size[1] - _SIDE) / 2)
    return image.crop((left, top, left + _SIDE, top + _SIDE))
