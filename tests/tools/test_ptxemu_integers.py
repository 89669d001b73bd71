"""Integers of 32 and 64 bits in the PTX emulator."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_array_equal

M24, M32, M64 = (1 << 24) - 1, (1 << 32) - 1, (1 << 64) - 1
N = 1024


def signed(x: int, bits: int = 32) -> int:
    return x - (1 << bits) if x >> (bits - 1) else x


def quotient(x: int, y: int) -> int:
    """Divide towards zero."""
    return abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)


def reverse(x: int, bits: int = 32) -> int:
    return int(f"{x:0{bits}b}"[::-1], 2)


def permute(x: int, y: int, selector: int, with_sign: bool = False) -> int:
    both, result = x | y << 32, 0
    for k in range(4):
        choice = selector >> 4 * k & 15
        byte = both >> 8 * (choice & 7) & 255
        if with_sign and choice & 8:
            byte = 255 if byte & 128 else 0
        result |= byte << 8 * k
    return result


def dot4(x: int, y: int, with_sign: bool) -> int:
    total = 0
    for k in range(4):
        a, b = x >> 8 * k & 255, y >> 8 * k & 255
        total += signed(a, 8) * signed(b, 8) if with_sign else a * b
    return total


def field(x: int, position: int, length: int, with_sign: bool) -> int:
    if length == 0:
        return 0
    result = (x >> position) & ((1 << length) - 1) & M32
    if with_sign and x >> min(position + length - 1, 31) & 1:
        result |= M32 & ~((1 << min(length, 32 - position)) - 1)
    return result


def by_table(x: int, y: int, z: int, table: int) -> int:
    return sum(
        (table >> ((x >> k & 1) * 4 + (y >> k & 1) * 2 + (z >> k & 1)) & 1) << k for k in range(32)
    )


def added_bytes(x: int, y: int) -> int:
    return sum(((x >> 8 * k & 255) + (y >> 8 * k & 255) & 255) << 8 * k for k in range(4))


def larger_halves(x: int, y: int) -> int:
    halves = [
        max(signed(x >> 16 * k & 65535, 16), signed(y >> 16 * k & 65535, 16)) for k in range(2)
    ]
    return sum((half & 65535) << 16 * k for k, half in enumerate(halves))


def expected32(x: int, y: int, z: int) -> list[int]:
    """Return what `ints` computes, in its order."""
    sx, sy, odd = signed(x), signed(y), y | 1
    s_odd = signed(odd)
    shift, length = z & 31, z >> 8 & 31
    mask = (1 << length) - 1
    both = y << 32 | x
    return [
        x + y, x - y, x * y, x * y >> 32, sx * sy >> 32, x // odd, x % odd, quotient(sx, s_odd),
        sx - quotient(sx, s_odd) * s_odd, x.bit_count(), 32 - x.bit_length(),
        (x & -x).bit_length(), reverse(x), permute(x, y, z & 0x7777), both << shift >> 32,
        both >> shift, both << min(z & 63, 32) >> 32, x >> shift, x << shift, sx >> shift,
        min(sx, sy), max(x, y), abs(sx), dot4(x, y, False) + z, dot4(x, y, True) + z,
        abs(sx - sy) + z, x // 10, quotient(sx, 7), added_bytes(x, y), larger_halves(x, y),
        abs(x - y) + z, (x & y) ^ (~z | x), field(x, shift, length, False),
        field(x, shift, length, True), (y & ~(mask << shift)) | ((x & mask) << shift & M32),
        by_table(x, y, z, 0xD8), min(sx, sy), z + (x + y >> 32),
        x.bit_length() - 1 if x else M32, permute(x, y, z & 0xFFFF, True),
        signed(x & M24, 24) * signed(y & M24, 24) + z, (x & M24) * (y & M24) >> 16,
    ]  # fmt: skip


def test_32_bits(strict, rng) -> None:
    a, b, c = (rng.integers(0, 2**32, N, dtype=np.uint64) for _ in range(3))
    a[:64] >>= 20
    b[:128] >>= 24
    a[64:70] = 0
    out = np.zeros((42, N), np.uint32)
    strict("ints", 4, 256, [*(x.astype(np.uint32) for x in (a, b, c)), out, N])
    for i in range(N):
        expected = [x & M32 for x in expected32(int(a[i]), int(b[i]), int(c[i]))]
        assert_array_equal(out[:, i], expected)


def expected64(x: int, y: int) -> list[int]:
    """Return what `ints64` computes, in its order."""
    sx, sy, odd = signed(x, 64), signed(y, 64), y | 1
    s_odd = signed(odd, 64)
    return [
        x + y, x * y, x // odd, x % odd, quotient(sx, s_odd), sx - quotient(sx, s_odd) * s_odd,
        x * y >> 64, sx * sy >> 64, x.bit_count(), 64 - x.bit_length(), reverse(x, 64),
        x >> (y & 63), sx >> (y & 63), min(sx, sy), (x & M32) * (y & M32),
        signed(x & M32) * signed(y & M32), (x & 255) + signed(y & 255, 8),
        signed(x & 65535, 16) * (y & 65535),
    ]  # fmt: skip


def test_64_bits(strict, rng) -> None:
    a, b = (rng.integers(0, 2**64, N, dtype=np.uint64) for _ in range(2))
    b[:200] >>= np.uint64(40)
    out = np.zeros((18, N), np.uint64)
    strict("ints64", 4, 256, [a, b, out, N])
    for i in range(N):
        expected = [x & M64 for x in expected64(int(a[i]), int(b[i]))]
        assert_array_equal(out[:, i], np.array(expected, np.uint64))
