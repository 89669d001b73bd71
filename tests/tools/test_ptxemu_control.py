"""Control flow, collectives, calls and variables in the PTX emulator."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from ptx_emulator import emulator

F32, I32 = np.float32, np.int32
M32 = (1 << 32) - 1


def collatz(x: int) -> int:
    if x < 1:
        return -1
    steps = 0
    while x != 1 and steps <= 500:
        x = 3 * x + 1 if x & 1 else x >> 1
        steps += 1
    return steps


def test_loops_of_different_length(strict, rng) -> None:
    n = 500
    x, out = rng.integers(-2, 3000, n).astype(I32), np.zeros(n, I32)
    strict("divergent", 2, 256, [x, out, n])
    assert_array_equal(out, [collatz(int(v)) for v in x])


def test_collectives_in_branches(strict, rng) -> None:
    x, out = rng.integers(0, 60, 64).astype(I32), np.zeros(64, I32)
    strict("coll_branch", 1, 64, [x, out])
    expected = []
    for warp in x.reshape(2, 32):
        odd, even = warp[warp % 2 == 1], warp[warp % 2 == 0]
        of_even = -even.max() - 1000 * bool((even > 50).any()) - 2000 * bool((even > 3).all())
        for lane, v in enumerate(warp):
            of_odd = len(odd) + (v & 3) + odd.sum() + odd[0] * 1000
            like_it = (warp[: lane + 1] == v).sum()
            expected.append((of_odd if v & 1 else of_even) + 100000 * like_it)
    assert_array_equal(out, expected)


def test_cooperative_groups(strict, rng) -> None:
    x, out = rng.random(64, F32), np.zeros(64, F32)
    strict("coll_groups", 1, 64, [x, out])
    expected = np.repeat(x.reshape(8, 8).sum(1, dtype=np.float64), 8)
    for warp in range(2):
        active = [t for t in range(warp * 32, warp * 32 + 32) if t % 3 == 0]
        for rank, t in enumerate(active):
            expected[t] += len(active) * 100 + rank
    assert_allclose(out, expected + 13 * 10000, 1e-6)


def test_shuffles(strict) -> None:
    x, out, t = np.arange(100, 132).astype(I32), np.zeros((8, 32), I32), np.arange(32)
    strict("shfl_all", 1, 32, [x, out])
    sources = [
        np.where(t >= 3, t - 3, t), np.where(t + 5 < 32, t + 5, t), t ^ 9, (t * 7 + 3) % 32,
        np.where(t % 8 >= 2, t - 2, t), np.where(t % 8 + 3 < 8, t + 3, t), t // 16 * 16 + 5,
        np.where((t ^ 4) // 4 * 4 > t // 4 * 4, t, t ^ 4),
    ]  # fmt: skip
    assert_array_equal(out, x[np.stack(sources)])


def test_structs_by_value(module, strict, rng) -> None:
    source, out = rng.random(200, F32), np.zeros(64, F32)
    fields = [("n", "i4"), ("w", "f4", 6), ("p0", "i4"), ("src", "u8"), ("st", "i8", 2),
              ("flag", "u1"), ("p1", "u1", 7)]  # fmt: skip
    struct = np.zeros(1, np.dtype(fields))
    struct["n"], struct["w"], struct["flag"] = 5, np.arange(6) + 1, 200
    struct["src"], struct["st"] = module.ptr(source), [3, 9]
    strict("byvalue", 1, 64, [struct.tobytes(), out, 2])
    module.release()
    i = np.arange(64)
    assert_allclose(out, source[i * 3] * (1 + (i + 2) % 6) + 5 + 200 + 9, 1e-5, 1e-6)


@pytest.mark.parametrize(("n", "dtype", "rtol"), [(7, F32, 1e-5), (13, np.float64, 1e-13)])
def test_templates(strict, rng, n: int, dtype: type, rtol: float) -> None:
    a, b, out = rng.random((100, n), dtype), rng.random((100, n), dtype), np.zeros(100, dtype)
    strict(f"tdotILi{n}E", 2, 32, [a, b, out, np.int64(100)])
    assert_allclose(out, (a.astype(np.float64) * b).sum(1), rtol, 1e-6)


def test_recursion_and_structs_that_are_returned(strict) -> None:
    out, floats, t = np.zeros(64, I32), np.zeros(64, F32), np.arange(64)
    strict("calls", 1, 64, [out, floats])
    fibonacci = [0, 1]
    while len(fibonacci) < 12:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    assert_array_equal(out, [fibonacci[i % 12] for i in t])
    half = t * 0.5
    assert_allclose(floats, 1 + half * (t % 5) + 20 + 4 * half ** (t % 5), 1e-6)


def inner(a: list[int], n: int) -> int:
    return sum(a[(j * n % 6 + n) % 6] * 2 * (j + 1) for j in range(6))


def nested(t: int, k: int) -> int:
    a, total = [t * i + k for i in range(6)], 0
    for i in range(k):
        n = i + t % 3
        c = [a[j * n % 6] + j for j in range(6)]
        both = inner(c, n) + inner(a, n + 1)
        a[n % 6] += both
        total = total * 3 + both + sum(c)
    return total + sum(a)


def test_local_arrays_in_nested_calls(strict) -> None:
    out = np.zeros(64, I32)
    strict("stackframes", 1, 64, [out, 4])
    assert_array_equal(out.view(np.uint32), [nested(t, 4) & M32 for t in range(64)])


def test_local_memory(strict, rng) -> None:
    x, out = rng.integers(0, 1000, 40).astype(I32), np.zeros(64, I32)
    strict("localmem", 1, 64, [x, out, 37])
    expected = []
    for t in range(64):
        a = [int(x[(t + i) % 40]) * i for i in range(37)]
        expected.append(sum(a[(v & 31) % 37] for v in a))
    assert_array_equal(out, expected)


def test_variables_and_printf(module, strict) -> None:
    out, t = np.zeros(64, F32), np.arange(64)
    module.symbol("counter", I32)[:] = 0
    result = strict("globals", 1, 64, [out])
    assert_array_equal(out, (t * 3 & 7) + 1)
    assert_array_equal(module.symbol("counter", I32), [t[k::4].sum() for k in range(4)])
    assert result.printf == "hi 42 1.50 1099511627776\n"


def test_threads_wait_for_each_other(launch) -> None:
    out = np.zeros(1, I32)
    launch("spin", 1, 96, [out])
    assert out[0] == 96
    launch("spin_its", 1, 32, [out])
    assert out[0] == 5


def test_named_barriers(strict) -> None:
    x, out = np.arange(128).astype(I32), np.zeros(128, I32)
    strict("named_bar", 1, 128, [x, out])
    assert_array_equal(out, np.concatenate([x[:64][::-1] * 2, x[64:][::-1] * 3]))


def test_barrier_after_threads_have_left(strict) -> None:
    x, out = np.arange(128).astype(I32), np.full(128, -1, I32)
    strict("early_exit_bar", 1, 128, [x, out, 70])
    assert_array_equal(out, np.concatenate([x[:70][::-1], np.full(58, -1)]))


BRANCH_BY_INDEX = r"""
.version 7.0
.target sm_80
.address_size 64
.visible .entry brx(.param .u64 p0, .param .u64 p1)
{
  .reg .pred %p<2>; .reg .b32 %r<8>; .reg .b64 %rd<6>;
  ld.param.u64 %rd1, [p0];
  ld.param.u64 %rd2, [p1];
  mov.u32 %r1, %tid.x;
  mul.wide.u32 %rd3, %r1, 4;
  add.s64 %rd4, %rd1, %rd3;
  add.s64 %rd5, %rd2, %rd3;
  ld.global.u32 %r2, [%rd4];
T0: .branchtargets L0, L1, L2;
  setp.gt.u32 %p1, %r2, 2;
  @%p1 bra DEF;
  brx.idx %r2, T0;
L0: mov.u32 %r3, 10; bra DONE;
L1: mov.u32 %r3, 20; bra DONE;
L2: mov.u32 %r3, 30; bra DONE;
DEF: mov.u32 %r3, 99;
DONE: shfl.sync.bfly.b32 %r4, %r3, 1, 31, -1;
  add.u32 %r3, %r3, %r4;
  st.global.u32 [%rd5], %r3; ret;
}
"""


def test_branches_by_index() -> None:
    x, out = (np.arange(32) % 5).astype(I32), np.zeros(32, I32)
    emulator().Module(BRANCH_BY_INDEX).launch("brx", 1, 32, [x, out], strict=True)
    chosen = np.array([10, 20, 30, 99, 99])[x]
    assert_array_equal(out, chosen + chosen[np.arange(32) ^ 1])
