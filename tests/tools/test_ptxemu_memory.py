"""Loads, stores, shared memory, asynchronous copies and atomics in the PTX emulator."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tools.ptxemu import bf16_to_f32

F32, I32 = np.float32, np.int32


def test_saxpy(strict, rng) -> None:
    n = 1003
    x, y = rng.standard_normal(n).astype(F32), rng.standard_normal(n).astype(F32)
    expected = (F32(2.5) * x.astype(np.float64) + y).astype(F32)
    result = strict("saxpy", (n + 127) // 128, 128, [y, x, F32(2.5), I32(n)])
    assert_allclose(y, expected, 1e-6, 1e-6)
    assert result.coalescing() == 1003 * 8 / (32 * 2 * 126)


def test_vectors_of_four(strict, rng) -> None:
    x, y = rng.standard_normal(1024).astype(F32), rng.standard_normal(1024).astype(F32)
    expected = y + F32(0.5) * x
    result = strict("saxpy4", 2, 128, [y, x, F32(0.5), I32(256)])
    assert_allclose(y, expected, 1e-6, 1e-6)
    assert result.stats["global_load"]["sectors"] == 256


@pytest.mark.parametrize("threads", [1, 2])
def test_matrix_product(strict, rng, threads: int) -> None:
    n = 64
    a, b, c = rng.random((n, n), F32), rng.random((n, n), F32), np.zeros((n, n), F32)
    result = strict("matmul", (n // 16, n // 16), (16, 16), [a, b, c, n], threads=threads)
    assert_allclose(c, a.astype(np.float64) @ b, 1e-5, 1e-6)
    assert result.stats["flops"]["f32"] == 2 * n**3


def test_bank_conflicts(strict, rng) -> None:
    a, b = rng.random((32, 32), F32), np.zeros((32, 32), F32)
    result = strict("transpose_conflict", 1, (32, 32), [a, b])
    assert_array_equal(b, a.T)
    assert result.stats["shared"]["wavefronts"] == 32 + 32 * 32


def test_sum_of_blocks(strict, rng) -> None:
    x, out = rng.random(5000, F32), np.zeros(1, F32)
    strict("reduce", 3, 256, [x, out, 5000])
    assert_allclose(out, x.sum(dtype=np.float64), 1e-5, 1e-6)


def test_softmax(strict, rng) -> None:
    x = rng.standard_normal((5, 300)).astype(F32) * 3
    out = np.zeros_like(x)
    strict("softmax", 5, 128, [x, out, 300], shared=1200)
    weights = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    assert_allclose(out, weights / weights.sum(1, keepdims=True), 2e-6, 1e-6)


def test_asynchronous_copies(strict, rng) -> None:
    tiles, out = rng.random((5, 512), F32), np.zeros(128, F32)
    strict("cpasync", 1, 128, [tiles, out, 5])
    expected = sum(tiles[k][::-1].reshape(128, 4).sum(1) * (k + 1) for k in range(5))
    assert_allclose(out, expected, 1e-5, 1e-6)


def test_asynchronous_copies_fill_with_zeros(strict, rng) -> None:
    x, out = rng.random(50, F32), np.full(128, -1, F32)
    strict("cpasync_zfill", 1, 32, [x, out, 50])
    assert_array_equal(out, np.concatenate([x, np.zeros(78, F32)]))


def test_reading_before_the_wait_is_reported(launch, rng) -> None:
    result = launch("cpasync_nowait", 1, 32, [rng.random(128, F32), np.zeros(128, F32)])
    assert result.diagnostics["reads_of_pending_cp_async"] > 0
    assert result.diagnostics["exit_with_pending_cp_async"] > 0


@pytest.mark.parametrize("threads", [1, 2])
def test_atomics(strict, rng, threads: int) -> None:
    n, bins = 1000, range(16)
    index = rng.integers(0, 16, n).astype(I32)
    single, double, signed = np.zeros(16, F32), np.zeros(16), np.zeros(80, I32)
    unsigned, wide = np.zeros(48, np.uint32), np.zeros(16, np.uint64)
    half, bfloat16 = np.zeros((16, 2), np.float16), np.zeros((16, 2), np.uint16)
    signed[32:48] = 10**6
    arrays = [single, double, signed, unsigned, wide, half, bfloat16]
    strict("atomics", 4, 256, [*arrays, index, n], threads=threads)
    count, t = np.bincount(index, minlength=16), np.arange(n)
    own = [t[index == k] for k in bins]
    assert_allclose(single, count * 1.5, 1e-5)
    assert_allclose(double, count * 0.25, 1e-5)
    assert_array_equal(signed[:16], [x.sum() for x in own])
    assert_array_equal(signed[16:32], [x.max() for x in own])
    assert_array_equal(signed[32:48], [x.min() for x in own])
    assert_array_equal(signed[48:50], [3 * n, 7])
    assert_array_equal(signed[64:80], count)
    assert_array_equal(unsigned[:16], [np.bitwise_or.reduce(1 << (x & 31)) for x in own])
    assert_array_equal(unsigned[16:32], [np.bitwise_xor.reduce(x) for x in own])
    assert_array_equal(unsigned[32:], count)
    assert_array_equal(wide, [int(x.sum()) << 30 for x in own])
    pairs = np.stack([count, 2 * count], 1)
    assert_array_equal(half.astype(F32), pairs)
    assert_array_equal(bf16_to_f32(bfloat16), pairs)
