"""Arithmetic in float16 and bfloat16 in the PTX emulator, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from exact_rounding import bfloat16_fma, half_fma
from tools.ptxemu import bf16_to_f32, f32_to_bf16

F32 = np.float32
N = 2048
MAGNITUDE = 0x7FFF


@pytest.fixture(scope="module")
def halves() -> list[np.ndarray]:
    """Three arrays of bits: 600 usual numbers each, then any but infinity and NaN."""
    rng = np.random.default_rng(1)
    arrays = [rng.integers(0, 65536, N).astype(np.uint16) for _ in range(3)]
    for bits in arrays:
        bits[(bits & 0x7C00) == 0x7C00] &= 0x8FFF
    a, b, c = arrays
    a[:600] = rng.standard_normal(600).astype(np.float16).view(np.uint16)
    b[:600] = rng.standard_normal(600).astype(np.float16).view(np.uint16)
    small = rng.standard_normal(600) * 2.0 ** rng.integers(-14, 4, 600)
    c[:600] = small.astype(np.float16).view(np.uint16)
    return arrays


@pytest.mark.parametrize(("kernel", "count"), [("half_ops", N), ("half2_ops", N // 2)])
def test_float16(strict, halves, kernel: str, count: int) -> None:
    a, b, c = (bits.view(np.float16) for bits in halves)
    out = np.zeros((8, N), np.uint16)
    strict(kernel, 8, 256, [*halves, out, count])
    with np.errstate(over="ignore"):
        expected = {
            0: a + b, 1: a * b, 3: np.maximum(a, b), 4: a - b, 5: -a, 6: np.minimum(a, b),
            7: np.abs(a),
        }  # fmt: skip
    for row, numbers in expected.items():
        zeros = (out[row].view(np.float16) == 0) & (numbers == 0)  # of either sign
        bits = numbers.astype(np.float16).view(np.uint16)
        assert_array_equal(np.where(zeros, 0, out[row]), np.where(zeros, 0, bits), f"row {row}")
    fma, bits = half_fma(a, b, c) & MAGNITUDE, out[2] & MAGNITUDE
    assert_array_equal(bits, fma)
    negative = (a.astype(np.float64) * b + c) < 0
    assert (((out[2] >> 15).astype(bool) == negative) | (bits == 0)).all()


@pytest.mark.parametrize(("kernel", "count"), [("bf_ops", N), ("bf2_ops", N // 2)])
def test_bfloat16(strict, rng, kernel: str, count: int) -> None:
    arrays = []
    for _ in range(3):
        scale = F32(2) ** rng.integers(-8, 8, N).astype(F32)
        arrays.append(f32_to_bf16(rng.standard_normal(N).astype(F32) * scale))
    a, b, c = (bf16_to_f32(bits) for bits in arrays)
    out = np.zeros((5, N), np.uint16)
    strict(kernel, 8, 256, [*arrays, out, count])
    for row, numbers in {0: a + b, 1: a * b, 3: np.maximum(a, b), 4: a - b}.items():
        assert_array_equal(out[row], f32_to_bf16(numbers.astype(F32)), f"row {row}")
    assert_array_equal(out[2], bfloat16_fma(a, b, c))
