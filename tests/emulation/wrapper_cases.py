"""What the kernels of wrapper_kernels.cuh must compute, whoever runs them.

Each case takes ``run(kernel, threads, shared_bytes, arrays, integers)``, which calls the kernel
with a Params struct of the arrays' addresses followed by the integers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

Run = Callable[[str, int, int, list, list[int]], None]


def params(addresses: list[int], numbers: list[int]) -> bytes:
    """Return the Params struct: pointers, then ints, padded to a multiple of 8 bytes."""
    packed = struct.pack(f"={len(addresses)}Q{len(numbers)}i", *addresses, *numbers)
    return packed + bytes(-len(packed) % 8)


def mangled(kernel: str) -> str:
    """Return the part of the mangled name that tells this instance from the others."""
    name, _, argument = kernel.rstrip(">").partition("<")
    return name + ({"Half": "INS_4Half", "BFloat16": "INS_8BFloat16"}[argument] if argument else "")


def bits(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return numbers that the storage type holds exactly, as its bit patterns."""
    if dtype == "Half":
        return values.astype(np.float16).view(np.uint16)
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def operands(depth: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return small integers over 16, whose products and sums float32 holds exactly."""
    generator = np.random.default_rng(seed)
    shapes = ((16, depth), (depth, 8), (16, 8))
    a, b, d = (generator.integers(-15, 16, shape) / 16 for shape in shapes)
    return a, b, d


def check_product(run: Run, kernel: str, dtype: str, depth: int) -> None:
    a, b, d = operands(depth, seed=depth)
    out = d.astype(np.float32)
    run(f"{kernel}<{dtype}>", 32, 768, [bits(a, dtype), bits(b, dtype), out], [depth])
    np.testing.assert_array_equal(out, d + a @ b)


def product_of_depth_8(run: Run) -> None:
    for dtype in ("Half", "BFloat16"):
        check_product(run, "product_by_fragments", dtype, 8)


def product_of_depth_16(run: Run) -> None:
    for dtype in ("Half", "BFloat16"):
        check_product(run, "product_by_fragments", dtype, 16)


def product_through_shared_memory(run: Run) -> None:
    for dtype in ("Half", "BFloat16"):
        check_product(run, "product_by_ldmatrix", dtype, 16)


def load_of_matrices(run: Run) -> None:
    matrices = np.arange(4 * 8 * 8, dtype=np.uint16).reshape(4, 8, 8)
    out = np.zeros((32, 14), np.uint32)
    run("load_matrices", 32, 0, [matrices, out], [])

    def fragments(stored: np.ndarray) -> np.ndarray:
        """[matrix, row, column] -> [lane, matrix]: lane / 4 is the row, lane % 4 the pair."""
        pairs = np.ascontiguousarray(stored).view(np.uint32)
        return pairs.reshape(len(stored), 32).T

    turned = matrices.transpose(0, 2, 1)
    expected = [fragments(which[:n]) for which in (matrices, turned) for n in (1, 2, 4)]
    np.testing.assert_array_equal(out, np.concatenate(expected, axis=1))


def copies_in_groups(run: Run) -> None:
    for threads, valid in ((64, 64), (64, 41), (32, 0)):
        generator = np.random.default_rng(threads + valid)
        parts = [generator.standard_normal((threads, n)).astype(np.float32) for n in (4, 2, 1)]
        array = np.concatenate([part.ravel() for part in parts])
        out = np.full((threads, 7), np.nan, np.float32)
        run("copy_in_groups", threads, 0, [array, out], [valid])
        expected = np.concatenate(parts, axis=1)
        expected[valid:] = 0
        np.testing.assert_array_equal(out, expected)


CASES: list[Any] = [
    product_of_depth_8,
    product_of_depth_16,
    product_through_shared_memory,
    load_of_matrices,
    copies_in_groups,
]
