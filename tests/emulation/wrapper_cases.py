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


def tensor_float(values: np.ndarray) -> np.ndarray:
    """Return the nearest floats with a mantissa of 10 bits, ties away from zero."""
    fraction, exponent = np.frexp(values.astype(np.float64))
    nearest = np.trunc(fraction * 2.0**11 + np.copysign(0.5, fraction))
    return np.ldexp(nearest / 2.0**11, exponent)


def cut_to_tensor_float(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)


def products_of_tensor_floats(run: Run) -> None:
    generator = np.random.default_rng(8)
    shapes = ((16, 8), (8, 8), (16, 8))
    a, b, d = (generator.standard_normal(shape).astype(np.float32) for shape in shapes)
    for kernel in ("tensor_float_product_by_fragments", "tensor_float_product_by_ldmatrix"):
        for rounded, value in ((1, tensor_float), (0, cut_to_tensor_float)):
            out = d.copy()
            run(kernel, 32, 768, [a, b, out], [rounded])
            np.testing.assert_allclose(out, d + value(a) @ value(b), rtol=0, atol=1e-6)


def rounding_to_tensor_float(run: Run) -> None:
    generator = np.random.default_rng(9)
    drawn = generator.integers(0, 2**32, 4096, dtype=np.uint32).view(np.float32)
    halfway = (generator.integers(0, 2**19, 512, dtype=np.uint32) << 13 | 0x1000).view(np.float32)
    below = (halfway.view(np.uint32) - 1).view(np.float32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1e-40], np.float32)
    values = np.concatenate([drawn, halfway, below, special])
    out = np.zeros(values.size, np.uint32)
    run("round_to_tensor_floats", 64, 0, [values, out], [values.size])
    got = out.view(np.float32)
    assert (out[~np.isnan(values)] & 0x1FFF == 0).all()
    np.testing.assert_array_equal(np.isnan(got), np.isnan(values))
    finite = np.isfinite(values) & (np.abs(values) > 2 * np.finfo(np.float32).tiny)
    with np.errstate(over="ignore"):
        expected = tensor_float(values[finite]).astype(np.float32)
    np.testing.assert_array_equal(got[finite], expected)
    np.testing.assert_array_equal(np.isinf(got), np.isinf(values) | (np.abs(values) >= 3.4028e38))


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
    products_of_tensor_floats,
    rounding_to_tensor_float,
    load_of_matrices,
    copies_in_groups,
]
