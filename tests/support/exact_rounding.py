"""Correct rounding, by exact fractions: what the emulated arithmetic is tested against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from tools.ptxemu import f32_to_bf16

_LARGEST_HALF = 65520  # from here on float16 rounds to infinity


def fractions(numbers: Any) -> list[Fraction]:
    return [Fraction(float(number)) for number in numbers]


def half_value(bits: int) -> Any:
    return np.uint16(bits).view(np.float16)


def bfloat16_value(bits: int) -> Any:
    return (np.uint32(bits) << np.uint32(16)).view(np.float32)


def nearest_even(exact: Fraction, value: Callable[[int], Any], exponent: int, guess: int) -> int:
    """Return the bit pattern nearest to `exact`, the even one of two; `guess` is close to it."""
    candidates = [
        bits
        for bits in range(guess - 2, guess + 3)
        if 0 <= bits <= 0xFFFF and (bits & 0x7FFF) < exponent
    ]
    distance = {bits: abs(Fraction(float(value(bits))) - exact) for bits in candidates}
    return min(candidates, key=lambda bits: (distance[bits], bits & 1))


def half_fma(a: Any, b: Any, c: Any) -> np.ndarray:
    """Return the bits of a b + c in float16, rounded once."""
    results = []
    for x, y, z in zip(a, b, c, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        with np.errstate(over="ignore"):
            guess = int(np.float16(float(x) * float(y) + float(z)).view(np.uint16))
        overflow = abs(exact) >= _LARGEST_HALF
        results.append(0x7C00 if overflow else nearest_even(exact, half_value, 0x7C00, guess))
    return np.array(results, np.uint16)


def bfloat16_fma(a: Any, b: Any, c: Any) -> np.ndarray:
    """Return the bits of a b + c in bfloat16, rounded once."""
    results = []
    for x, y, z in zip(a, b, c, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        guess = int(f32_to_bf16(np.array([float(exact)], np.float32))[0])
        results.append(nearest_even(exact, bfloat16_value, 0x7F80, guess))
    return np.array(results, np.uint16)


def directed(exact: Fraction, mode: str) -> np.float32:
    """Round to float32 towards zero ("rz"), down ("rd") or up ("ru")."""
    if exact == 0:
        return np.float32(0)
    down = mode == "rd" or (mode == "rz" and exact > 0)
    below, above = np.float32(-np.inf), np.float32(np.inf)
    number = np.float32(float(exact))
    while Fraction(float(number)) > exact:
        number = np.nextafter(number, below)
    while Fraction(float(np.nextafter(number, above))) <= exact:
        number = np.nextafter(number, above)
    # The largest that is not above; one up unless it is exact.
    return number if down or Fraction(float(number)) == exact else np.nextafter(number, above)


def all_directed(exact: Sequence[Fraction], mode: str) -> list[np.float32]:
    return [directed(number, mode) for number in exact]
