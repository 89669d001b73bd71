"""Matrix instructions in the PTX emulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tools.ptxemu import bf16_to_f32, f32_to_bf16, to_tf32

F32, F64 = np.float32, np.float64


@pytest.fixture
def half(rng) -> tuple[np.ndarray, np.ndarray]:
    """A 16x16 matrix, and an 8x16 one that is the other factor transposed."""
    a = rng.standard_normal((16, 16)).astype(np.float16)
    return a, rng.standard_normal((8, 16)).astype(np.float16)


@pytest.fixture
def start(rng) -> np.ndarray:
    """What a product is added to."""
    return rng.standard_normal((16, 8)).astype(F32)


def near(result: Any, expected: Any) -> None:
    assert_allclose(np.asarray(result, F64), expected, 1e-6, 1e-6)


def test_float16(strict, half, start) -> None:
    a, b = half
    out = np.zeros((16, 8), F32)
    result = strict("mma_f16_k16", 1, 32, [a, b, start, out])
    near(out, a.astype(F64) @ b.T.astype(F64) + start)
    assert result.stats["flops"]["mma"] == 2 * 16 * 8 * 16


def test_float16_of_depth_8(strict, half, start) -> None:
    a, b = (np.ascontiguousarray(x[:, :8]) for x in half)
    out = np.zeros((16, 8), F32)
    strict("mma_f16_k8", 1, 32, [a, b, start, out])
    near(out, a.astype(F64) @ b.T.astype(F64) + start)


def test_float16_accumulators(strict, half, start) -> None:
    (a, b), begin, out = half, start.astype(np.float16), np.zeros((16, 8), np.float16)
    strict("mma_f16acc", 1, 32, [a, b, begin, out])
    expected = a.astype(F64) @ b.T.astype(F64) + begin
    assert_allclose(out.astype(F64), expected, 1e-3, 1e-3)


def test_bfloat16(strict, half, start) -> None:
    a, b = (f32_to_bf16(x.astype(F32)) for x in half)
    out = np.zeros((16, 8), F32)
    strict("mma_bf16_k16", 1, 32, [a, b, start, out])
    near(out, bf16_to_f32(a).astype(F64) @ bf16_to_f32(b).T + start)


def test_tf32(strict, rng, start) -> None:
    a, b = rng.standard_normal((16, 8)).astype(F32), rng.standard_normal((8, 8)).astype(F32)
    out = np.zeros((16, 8), F32)
    strict("mma_tf32_k8", 1, 32, [a, b, start, out])
    near(out, to_tf32(a).astype(F64) @ to_tf32(b).T + start)


def test_tf32_ignores_the_bits_it_lacks(strict, rng) -> None:
    a, b = rng.standard_normal((16, 8)).astype(F32), rng.standard_normal((8, 8)).astype(F32)
    out = np.zeros((16, 8), F32)
    strict("mma_tf32_raw", 1, 32, [a, b, out])
    cut = [(x.view(np.uint32) & np.uint32(0xFFFFE000)).view(F32).astype(F64) for x in (a, b)]
    near(out, cut[0] @ cut[1].T)


def test_int8(strict, rng) -> None:
    a = rng.integers(-128, 128, (16, 32)).astype(np.int8)
    b = rng.integers(-128, 128, (8, 32)).astype(np.int8)
    out = np.zeros((16, 8), np.int32)
    strict("mma_s8", 1, 32, [a, b, out])
    assert_array_equal(out, a.astype(np.int32) @ b.T.astype(np.int32))


def test_ldmatrix(strict, rng, half) -> None:
    a, b = half[0], rng.standard_normal((16, 8)).astype(np.float16)
    out = np.zeros((16, 8), F32)
    strict("ldmatrix_mma", 1, 32, [a, b, out])
    near(out, a.astype(F64) @ b.astype(F64))


def test_wmma_float16(strict, rng, half) -> None:
    a, b = half[0], rng.standard_normal((16, 16)).astype(np.float16)
    out = np.zeros((16, 16), F32)
    strict("wmma_f16", 1, 32, [a, b, out])
    near(out, 2 * (a.astype(F64) @ b.T.astype(F64) + 1))


def test_wmma_bfloat16_in_shared_memory(strict, rng) -> None:
    a, b = (f32_to_bf16(rng.standard_normal((16, 16)).astype(F32)) for _ in range(2))
    out = np.zeros((16, 16), F32)
    strict("wmma_shared_bf16", 1, 32, [a, b, out])
    near(out, (bf16_to_f32(a).astype(F64) @ bf16_to_f32(b)).T)


def test_wmma_tf32(strict, rng) -> None:
    a, b = rng.standard_normal((16, 8)).astype(F32), rng.standard_normal((8, 16)).astype(F32)
    out = np.zeros((16, 16), F32)
    strict("wmma_tf32", 1, 32, [a, b, out])
    near(out, to_tf32(a).astype(F64) @ to_tf32(b))
