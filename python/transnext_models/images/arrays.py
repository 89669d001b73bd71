"""Arrays and tensors as images."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from .errors import Unreadable

_CHANNELS = (1, 3, 4)
_SLACK = 1e-3  # of floats around 0..1: a quarter of a step of 8 bits
_16_TO_8_BIT = 257


def from_tensor(tensor: torch.Tensor) -> Image.Image:
    """Return a tensor ``[C, H, W]`` or ``[H, W]``, as torch lays images out, as an image.

    See `from_array` for its types, channels and errors.
    """
    tensor = tensor.detach()
    if tensor.ndim == 3 and tensor.shape[0] not in _CHANNELS and tensor.shape[2] in _CHANNELS:
        raise Unreadable(
            f"got a tensor {list(tensor.shape)}, needs [C, H, W]: permute(2, 0, 1) turns "
            "[H, W, C] into it"
        )
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float32)
    tensor = tensor.cpu()
    return from_array((tensor if tensor.ndim != 3 else tensor.permute(1, 2, 0)).numpy())


def from_array(array: np.ndarray) -> Image.Image:
    """Return an array ``[H, W, C]`` or ``[H, W]`` as an 8-bit image.

    Parameters
    ----------
    array : np.ndarray
        Of 1 (grey), 3 (RGB) or 4 (RGB and opacity) channels; uint8 of 0..255, uint16 of 0..65535,
        bool, or floats of 0..1.

    Raises
    ------
    Unreadable
        If it is of another shape or type, empty, or holds floats outside of 0..1.
    """
    if array.ndim == 3 and array.shape[2] not in _CHANNELS and array.shape[0] in _CHANNELS:
        raise Unreadable(
            f"got an array {list(array.shape)}, needs [H, W, C]: transpose(1, 2, 0) turns "
            "[C, H, W] into it"
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in _CHANNELS):
        raise Unreadable(
            f"got an array {list(array.shape)}, needs [H, W] or [H, W, C] of 1, 3 or 4 channels"
        )
    if array.size == 0:
        raise Unreadable(f"got an array {list(array.shape)}, needs pixels")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(_to_8_bit(array)))


def _to_8_bit(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        wide = array.astype(np.uint32)
        return ((wide + _16_TO_8_BIT // 2) // _16_TO_8_BIT).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise Unreadable(
            f"got an array of {array.dtype}, needs uint8, uint16, bool or floats of 0..1"
        )
    lowest, highest = float(array.min()), float(array.max())
    if not (lowest >= -_SLACK and highest <= 1 + _SLACK):  # also where one is NaN
        raise Unreadable(f"got floats of {lowest:.4g} to {highest:.4g}, needs 0..1")
    return np.rint(np.clip(array.astype(np.float32), 0, 1) * np.float32(255)).astype(np.uint8)
