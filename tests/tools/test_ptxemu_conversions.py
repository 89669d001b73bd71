"""Conversions, directed rounding and the mathematical functions in the PTX emulator."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from exact_rounding import all_directed, fractions
from tools.ptxemu import bf16_to_f32, f32_to_bf16

F32, F64, I32, U32 = np.float32, np.float64, np.int32, np.uint32


def test_narrow_floats(strict, rng) -> None:
    n = 1024
    x = (rng.standard_normal(n) * 10.0 ** rng.integers(-9, 6, n)).astype(F32)
    x[:8] = [0, -0.0, 65504, 65519, 65520, 1e30, -1e30, 5.9e-8]
    half, bfloat16 = np.zeros((4, n), np.uint16), np.zeros((4, n), np.uint16)
    back = np.zeros((2, n), F32)
    half_pairs, bfloat16_pairs = np.zeros((n, 2), np.uint16), np.zeros((n, 2), np.uint16)
    strict("cvt_half", 4, 256, [x, half, bfloat16, back, half_pairs, bfloat16_pairs, n])
    with np.errstate(over="ignore"):
        nearest = x.astype(np.float16)
        above = np.nextafter(half[2].view(np.float16), np.float16(np.inf)).astype(F64)
    exact = x.astype(F64)
    assert_array_equal(half[0], nearest.view(np.uint16))
    assert_array_equal(back[0], nearest.astype(F32))
    _, to_zero, down, up = half.view(np.float16).astype(F64)
    assert (np.abs(to_zero) <= np.abs(exact)).all()
    assert ((down <= exact) & (up >= exact)).all()
    assert ((above > exact) | (down == exact)).all()
    assert_array_equal(half_pairs.view(np.float16), np.stack([nearest, nearest[::-1]], 1))

    nearest = f32_to_bf16(x)
    assert_array_equal(bfloat16[0], nearest)
    assert_array_equal(bfloat16_pairs, np.stack([nearest, nearest[::-1]], 1))
    _, to_zero, down, up = bf16_to_f32(bfloat16).astype(F64)
    assert (np.abs(to_zero) <= np.abs(exact)).all()
    assert ((down <= exact) & (up >= exact)).all()
    assert (np.abs(up - down) <= np.abs(exact) * 2**-6 + 1e-38).all()


def clipped(x: np.ndarray, low: int, high: int) -> np.ndarray:
    return np.clip(x, low, high).astype(np.int64)


def test_integers(strict, rng) -> None:
    n = 1024
    special = np.array([2.5, 3.5, -2.5, 3e9, -3e9, np.nan, 1e20, -0.5], F32)
    x = np.concatenate([rng.standard_normal(n - 8).astype(F32) * 1e4, special])
    d = np.concatenate([rng.standard_normal(n - 4) * 1e9, [1e-46, 3.4e38, 0.1, -7.5]])
    signed, unsigned = np.zeros((4, n), I32), np.zeros((2, n), U32)
    wide, floats = np.zeros((2, n), np.int64), np.zeros((11, n), F32)
    strict("cvt_int", 4, 256, [x, d, signed, unsigned, wide, floats, n])
    exact = np.nan_to_num(x.astype(F64), nan=0.0)
    for row, rounded in enumerate((np.rint, np.trunc, np.floor, np.ceil)):
        assert_array_equal(signed[row], clipped(rounded(exact), -(2**31), 2**31 - 1))
    assert_array_equal(unsigned[0], clipped(np.trunc(exact), 0, 2**32 - 1))
    clamped = np.rint(np.clip(d, -1, 2.0**33))
    assert_array_equal(unsigned[1], clipped(clamped, 0, 2**32 - 1))
    fits = (np.abs(exact) < 1e18) & ~np.isnan(x)
    assert_array_equal(wide[0][fits], np.trunc(exact)[fits].astype(np.int64))
    assert wide[0][n - 3] == -(2**63)  # of NaN
    fits = np.abs(d) < 1e18
    assert_array_equal(wide[1][fits], np.floor(d[fits]).astype(np.int64))
    assert_array_equal(floats[0], d.astype(F32))
    for row, mode in ((1, "rz"), (2, "rd"), (3, "ru")):
        assert_array_equal(floats[row], all_directed([Fraction(v) for v in d], mode), mode)
    assert_array_equal(floats[4][fits], wide[1][fits].astype(F32))
    assert_array_equal(floats[5], all_directed([Fraction(int(v)) for v in signed[0]], "rz"))
    number = ~np.isnan(x)
    away = np.sign(exact) * np.floor(np.abs(exact) + 0.5)
    rounded = (np.rint(exact), np.floor(exact), np.ceil(exact), np.trunc(exact), away)
    for row, expected in enumerate(rounded, start=6):
        assert_array_equal(floats[row][number], expected[number].astype(F32), f"row {row}")


def test_directed_rounding(strict, rng) -> None:
    n = 512
    a, b, c = (
        (rng.standard_normal(n) * 2.0 ** rng.integers(-20, 20, n)).astype(F32) for _ in range(3)
    )
    out = np.zeros((18, n), F32)
    strict("rounding", 2, 256, [a, b, c, out, n])
    exact_a, exact_b, exact_c = fractions(a), fractions(b), fractions(c)
    pairs = list(zip(exact_a, exact_b, strict=True))
    total, product = [x + y for x, y in pairs], [x * y for x, y in pairs]
    fma = [x + y for x, y in zip(product, exact_c, strict=True)]
    quotient = [x / y for x, y in pairs]
    for first, exact in ((1, total), (8, fma), (11, quotient)):
        for row, mode in enumerate(("rz", "rd", "ru"), start=first):
            assert_array_equal(out[row], all_directed(exact, mode), f"row {row}")
    for row, mode in enumerate(("rz", "rd", "ru"), start=4):
        assert_array_equal(out[row], all_directed(product, mode), f"row {row}")
    assert_array_equal(out[0], a + b)
    assert_array_equal(out[7], [F32(float(x)) for x in fma])
    root = np.sqrt(np.abs(a).astype(np.longdouble))
    assert ((out[14] <= root) & (out[15] >= root)).all()
    assert (np.nextafter(out[14], F32(np.inf)) >= root).all()
    assert_array_equal(out[16], a / b)
    assert_array_equal(out[17], np.sqrt(np.abs(a)))


def test_functions_of_float32(strict, rng) -> None:
    n = 512
    x = (rng.standard_normal(n) * 3).astype(F32)
    x[:4] = [0, 1e-20, -8, 8.5]
    out = np.zeros((26, n), F32)
    strict("mathf", 2, 256, [x, out, n])
    v, p = x.astype(F64), (np.abs(x) + F32(1e-3)).astype(F64)
    erf, erfc, lgamma = (np.vectorize(f) for f in (math.erf, math.erfc, math.lgamma))
    exact = [
        np.exp(v), np.log(p), np.sin(v), np.cos(v), np.tanh(v), p ** F64(F32(1.7)), p**-0.5,
        erf(v), np.exp2(v), np.log2(p), np.cbrt(v), np.arctan2(v, p),
        np.sin((x * F32(1e6)).astype(F64)), np.log1p(p), np.expm1(v), np.hypot(v, 2), np.exp(v),
        np.log(p), np.sin(v), v / p, np.fmod(v, F64(F32(0.7))), v * 8, 1 / (1 + np.exp(-v)),
        erfc(v), lgamma(p), 0.5 * erfc(-v / math.sqrt(2)),
    ]  # fmt: skip
    coarse = (16, 17, 18, 22, 23, 25)  # fast versions, and what cancels
    for row, expected in enumerate(exact):
        rtol = 2e-5 if row in coarse else 3e-6
        assert_allclose(out[row], expected, rtol, 2e-6, err_msg=f"row {row}")


def test_functions_of_float64(strict, rng) -> None:
    n = 512
    x = rng.standard_normal(n) * 3
    out = np.zeros((14, n))
    strict("mathd", 2, 256, [x, out, n])
    p = np.abs(x) + 1e-3
    exact = [
        np.exp(x), np.log(p), np.sin(x), np.cos(x), np.tanh(x), p**1.7, p**-0.5,
        np.vectorize(math.erf)(x), x / p, np.sqrt(p), x * p + x, np.cbrt(x), np.sin(x * 1e6), 1 / p,
    ]  # fmt: skip
    for row, expected in enumerate(exact):
        assert_allclose(out[row], expected, 1e-14, 1e-15, err_msg=f"row {row}")
