"""The levels with a tile unit, AMX's own and the emulated one: bits, threads, forks, signals.

That the results of the fused blocks are right is among what ``tests/ops/test_ops_fused_blocks.py``
finds out.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import transnext_ops as ops
from agreement import check_attention, edge
from small_model import images, small_model
from strategies import MAGNITUDES, AttentionCase, Numbers, head_dims, layouts, seeds
from transnext_ops import explain_backend, fused_blocks
from transnext_ops.backends import cpp_backend

_cpp = pytest.importorskip("transnext_ops._cpp")
LEVELS = [name for name in _cpp.available_cpu_levels() if name.startswith("amx")]
pytestmark = pytest.mark.skipif(
    not LEVELS, reason="needs AMX, or a build with TRANSNEXT_EMULATED_TILES"
)
GRID = (9, 13)


@pytest.fixture(params=LEVELS)
def level(request):
    _cpp.set_cpu_level(request.param)
    yield request.param
    _cpp.set_cpu_level(None)


def embedding(columns: int, kernel: int, channels: int) -> tuple[Tensor, fused_blocks.PackedWeight]:
    """A map in bfloat16 and a convolution, whose depth is ``channels * kernel**2``."""
    numbers = Numbers(columns + kernel)
    x = numbers.activation(2, channels, *GRID, dtype=torch.bfloat16)
    weight = numbers.parameter(columns, channels, kernel, kernel, dtype=torch.bfloat16, scale=0.2)
    packed = fused_blocks.pack_convolution(weight, torch.bfloat16, channels_last=False)
    return x, packed


def embed(x: Tensor, packed: fused_blocks.PackedWeight, columns: int, kernel: int) -> Tensor:
    norm = fused_blocks.NormWeights(torch.ones(columns), torch.zeros(columns), 1e-6)
    weights = fused_blocks.PatchEmbedWeights(packed, False, None, norm)
    return fused_blocks.patch_embed(x, weights, kernel_size=kernel, stride=1)


def glu() -> tuple[Tensor, fused_blocks.ConvGluResidualWeights]:
    numbers, width, hidden = Numbers(5), 40, 72

    def packed(columns: int, depth: int) -> fused_blocks.PackedWeight:
        weight = numbers.parameter(columns, depth, dtype=torch.bfloat16, scale=0.2)
        return fused_blocks.pack_weight(weight, torch.bfloat16)

    norm = fused_blocks.NormWeights(torch.ones(width), torch.zeros(width), 1e-6)
    x = numbers.activation(3, GRID[0] * GRID[1], width, dtype=torch.bfloat16)
    weights = fused_blocks.ConvGluResidualWeights(
        norm, packed(hidden, width), packed(hidden, width), None,
        numbers.parameter(hidden, 1, 3, 3, dtype=torch.bfloat16), None, packed(width, hidden), None,
    )  # fmt: skip
    return x, weights


# Columns and depths around the sides of tiles, 16 and 32, and of a panel, 48.
@pytest.mark.parametrize("columns", [1, 16, 17, 33, 48, 49, 96])
@pytest.mark.parametrize(("kernel", "channels"), [(1, 1), (1, 32), (1, 33), (3, 7), (3, 30)])
def test_a_weight_may_be_packed_by_another_level(level, columns, kernel, channels) -> None:
    """Panels are the same for all levels, and so are results, up to the order of sums."""
    x, packed = embedding(columns, kernel, channels)
    result = embed(x, packed, columns, kernel)
    _cpp.set_cpu_level("baseline")
    _, again = embedding(columns, kernel, channels)
    assert torch.equal(packed.data, again.data)
    expected = embed(x, again, columns, kernel)
    if columns > 1:  # one column is normalised to nothing but rounding
        torch.testing.assert_close(result, expected, atol=0.04, rtol=0.02)


def attention(grid: tuple[int, int], window_size: int = 0, **changes: Any) -> AttentionCase:
    """Attention in bfloat16 to as many pooled keys as tokens, more than 96: on tiles."""
    changes = {"batch": 1, "heads": 1, **changes}
    return edge(
        grid=grid, pool_grid=grid, window_size=window_size, dtype=torch.bfloat16, **changes
    )  # fmt: skip


# Keys around the sides of tiles, 16 and 32, and around the 64 that are held at a time; queries
# around a tile's 16 and a block's 32; channels around 32.
@settings(max_examples=6)
@given(
    case=st.builds(
        attention,
        st.tuples(st.integers(7, 10), st.integers(14, 16)),
        st.sampled_from((0, 3)),
        head_dim=head_dims,
        layout=layouts,
        magnitude=st.sampled_from(MAGNITUDES),
        bias=st.sampled_from(("extrapolated", "interpolated", "dense", "none")),
        seed=seeds,
    )
)
@example(case=attention((8, 12)))
@example(case=attention((1, 97), head_dim=32, bias="dense"))
@example(case=attention((4, 32), head_dim=33, heads=2))
@example(case=attention((3, 43), 3, head_dim=9, batch=2, layout="sliced"))
@example(case=attention((7, 16), head_dim=128))
@example(case=attention((9, 15), magnitude="zero vectors", bias="interpolated"))
def test_attention_agrees_with_the_reference(case: AttentionCase) -> None:
    try:
        for name in LEVELS:
            _cpp.set_cpu_level(name)
            check_attention(case, "cpp")
    finally:
        _cpp.set_cpu_level(None)


# Of a query's 128 keys: all that are handled at a time, all but one, all of some lanes of a block.
UNSEEN = {0: slice(0, 64), 5: slice(0, 127), 17: slice(64, 128), 40: slice(1, 128)}


@pytest.mark.parametrize("window_size", [0, 3])
def test_keys_that_a_bias_takes_away(window_size: int) -> None:
    case = attention((8, 16), window_size, bias="dense")
    inputs = case.tensors()
    unseen = UNSEEN | ({21: slice(0, 128)} if window_size else {})  # what is left is its window
    for query, keys in unseen.items():
        inputs["pool_bias"][:, query, keys] = float("-inf")

    def run(name: str) -> Tensor:
        _cpp.set_cpu_level(name)
        if window_size:
            sizes = {"grid": case.grid, "pool_grid": case.pool_grid, "window_size": window_size}
            return ops.aggregated_attention(**inputs, **sizes, backend="cpp")
        return ops.global_attention(
            inputs["q"], inputs["k_pool"], inputs["v_pool"], grid=case.grid, scale=inputs["scale"],
            query_embedding=inputs["query_embedding"], bias=inputs["pool_bias"], backend="cpp",
        )  # fmt: skip

    try:
        expected = run("baseline")
        assert expected.isfinite().all()
        for name in LEVELS:
            torch.testing.assert_close(run(name), expected, atol=0.02, rtol=0.02)
    finally:
        _cpp.set_cpu_level(None)


@pytest.mark.parametrize("exponent", [-30, 60])
def test_the_norm_of_queries_changes_no_bit(level, exponent: int) -> None:
    """Queries are multiplied as they are but for a power of two, whatever they are times one."""
    inputs = attention((8, 16)).tensors()
    q = inputs["q"]

    def run(queries: Tensor) -> Tensor:
        return ops.global_attention(
            queries, inputs["k_pool"], inputs["v_pool"], grid=(8, 16), scale=inputs["scale"],
            query_embedding=inputs["query_embedding"], bias=inputs["pool_bias"], backend="cpp",
        )  # fmt: skip

    assert inputs["query_embedding"] is not None
    assert torch.equal(run(q), run(q * 2.0**exponent))


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_logits_of_attention_are_exact_to_more_than_bfloat16(level, scale: float) -> None:
    """Queries and keys are multiplied exactly, in float32 where logits are large."""
    numbers = Numbers(3)
    q, k, v = (numbers.activation(1, 120, 2, 24, dtype=torch.bfloat16) for _ in range(3))
    grid, per_head = (8, 15), torch.full((2,), scale)

    def log_sum_exp() -> Tensor:
        return cpp_backend.aggregated_attention(
            q, None, None, k, v, per_head, None, None, None, None, None, None, None, None,
            grid, grid, 0,
        )[1]  # fmt: skip

    sums = log_sum_exp()
    _cpp.set_cpu_level("baseline")
    torch.testing.assert_close(sums, log_sum_exp(), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(len(LEVELS) < 2, reason="needs AMX and a build with TRANSNEXT_EMULATED_TILES")
def test_emulated_tiles_give_what_real_ones_do() -> None:
    results = []
    x, packed = embedding(49, 3, 30)
    x[0, 0, 0, :4] = torch.tensor([1e-39, -1e-40, 1e-42, 2.0**-126])
    try:
        for name in LEVELS:
            _cpp.set_cpu_level(name)
            results.append(embed(x, packed, 49, 3))
    finally:
        _cpp.set_cpu_level(None)
    torch.testing.assert_close(*results, rtol=0.008, atol=1e-3)  # norms are summed otherwise


def test_split_weights_are_for_tiles_and_float32(level) -> None:
    """Everything else says so, in Python and in the compiled library."""
    weight = torch.randn(40, 24)
    split = fused_blocks.pack_weight(weight, torch.float32, precision="high")
    assert split.data.dtype == torch.int32
    norm = fused_blocks.NormWeights(torch.ones(24), torch.zeros(24), 1e-6)
    weights = fused_blocks.ConvGluResidualWeights(
        norm, split, split, None, torch.randn(40, 1, 3, 3), None,
        fused_blocks.pack_weight(weight.T, torch.float32, precision="high"), None,
    )  # fmt: skip
    x = torch.randn(1, 6, 24)
    with pytest.raises(ValueError, match=r"x, features: got torch.bfloat16"):
        fused_blocks.conv_glu_residual(x.bfloat16(), weights, grid=(2, 3))
    out = x.bfloat16()
    arguments = (
        norm.weight, norm.bias, split.data, split.data, None, weights.conv_weight, None,
        weights.fc2.data, None, out, (2, 3), 24, 40, 1e-6, 1,
    )  # fmt: skip
    with pytest.raises(ValueError, match="x is bfloat16, needs float32 beside split weights"):
        _cpp.conv_glu_residual(x.bfloat16(), *arguments)
    _cpp.set_cpu_level("baseline")
    for call in (
        lambda: fused_blocks.conv_glu_residual(x, weights, grid=(2, 3)),
        lambda: fused_blocks.pack_weight(weight, torch.float32, precision="high"),
    ):
        with pytest.raises(RuntimeError, match=r"need a CPU level with a tile unit.*is baseline"):
            call()


def test_a_model_is_less_precise_where_pytorch_allows_it(level) -> None:
    """``torch.set_float32_matmul_precision("high")``: close logits, and the first bits after it."""
    model, x = small_model().float(), images().float()

    def run(precision: str) -> Tensor:
        torch.set_float32_matmul_precision(precision)
        with torch.no_grad():
            return model(x)

    exact = run("highest")
    close = run("high")
    assert not torch.equal(close, exact)
    assert (close - exact).abs().max() < 1e-4 * exact.abs().max()
    assert "three products of bfloat16" in explain_backend()
    assert torch.equal(run("medium"), close)
    assert torch.equal(run("highest"), exact)
    assert "three products" not in explain_backend()
    torch.set_float32_matmul_precision("high")
    _cpp.set_cpu_level("baseline")
    assert fused_blocks.product_precision(torch.float32) == "highest"


def test_callers_on_several_threads_get_the_same_bits(level) -> None:
    x, weights = glu()
    expected = fused_blocks.conv_glu_residual(x, weights, grid=GRID)
    results: list[Tensor] = []

    def call() -> None:
        results.extend(fused_blocks.conv_glu_residual(x, weights, grid=GRID) for _ in range(8))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 32
    assert all(torch.equal(result, expected) for result in results)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_gets_the_same_bits(level) -> None:
    x, weights = glu()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = fused_blocks.conv_glu_residual(x, weights, grid=GRID)
        child = os.fork()
        if child == 0:
            result = fused_blocks.conv_glu_residual(x, weights, grid=GRID)
            os._exit(0 if torch.equal(result, expected) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_signals_during_a_call_change_nothing(level) -> None:
    x, weights = glu()
    expected = fused_blocks.conv_glu_residual(x, weights, grid=GRID)
    seen = 0

    def count(*_: object) -> None:
        nonlocal seen
        seen += 1

    before = signal.signal(signal.SIGALRM, count)
    signal.setitimer(signal.ITIMER_REAL, 2e-4, 2e-4)
    try:
        same = [
            torch.equal(fused_blocks.conv_glu_residual(x, weights, grid=GRID), expected)
            for _ in range(50)
        ]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert all(same)
    assert seen
