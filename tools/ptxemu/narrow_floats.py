"""Float formats that NumPy lacks."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def f32_to_bf16(x: ArrayLike) -> NDArray[np.uint16]:
    """Return the bfloat16 bit patterns of float32 numbers, rounded to nearest even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded)


def bf16_to_f32(bits: ArrayLike) -> NDArray[np.float32]:
    """Return the float32 numbers of bfloat16 bit patterns."""
    return (np.ascontiguousarray(bits, np.uint16).astype(np.uint32) << 16).view(np.float32)


def to_tf32(x: ArrayLike) -> NDArray[np.float32]:
    """Round float32 numbers to TF32, ties away from zero, as ``cvt.rna.tf32`` does."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
