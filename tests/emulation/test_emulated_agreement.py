"""The CUDA kernels in the emulation against the NumPy reference: drawn cases of every operator.

2,000 examples by default, shared out over operators and storage types. The long run:

    HYPOTHESIS_PROFILE=long TRANSNEXT_EMULATED_EXAMPLES=50000 \
        python -m pytest tests/emulation/test_emulated_agreement.py -n auto

Every example plans for another architecture and shuffles threads and blocks by its own seed. An
access outside a tensor or shared memory, a barrier that not all threads reach, a shuffle outside
its mask are errors; outputs and workspace hold NaN before the kernels run.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st

pytest.importorskip("transnext_ops._cpp")

from emulated import EmulatedKernels, Library

import agreement
import transnext_ops as ops
from agreement import check_attention, check_position_bias, edge
from deformable_agreement import check_deformable_attention
from deformable_cases import ORDINARY, deformable_cases, ordinary
from ptx_cases import CASES, EDGES_OF_ATTENTION
from strategies import (
    AttentionCase,
    PositionBiasCase,
    TokenCase,
    attention_cases,
    position_bias_cases,
)
from tf32_agreement import check_attention_on_tf32
from token_operators import TokenOperator, token_operators
from transnext_ops import _cpp
from transnext_ops.backends.launches import use_runner
from transnext_ops.backends.matmul_precision import tf32

EXAMPLES = int(os.environ.get("TRANSNEXT_EMULATED_EXAMPLES", "2000"))
SHARES = {
    "aggregated_attention": 0.25,
    "attention_on_tf32": 0.05,
    "global_attention": 0.1,
    "each token operator": 0.12,
    "position_bias": 0.12,
    "deformable_attention": 0.06,
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CAPABILITIES = (75, 80, 90, 120)

EDGES_OF_TILES: tuple[dict[str, Any], ...] = (
    {"grid": (12, 64), "pool_grid": (3, 16)},  # wide tiles, the table read in place
    {"grid": (22, 30), "pool_grid": (11, 30), "batch": 1, "heads": 1},  # a large tile
    {"grid": (12, 17), "pool_grid": (12, 17), "window_size": 0, "layout": "packed"},
    # As many pooled keys as strips own, which lie side by side and below each other.
    {"grid": (19, 35), "pool_grid": (7, 8), "batch": 1},
    {"grid": (9, 17), "pool_grid": (7, 7), "batch": 1, "bias": "interpolated"},
)

storage = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def share(operator: str, parts: int = len(DTYPES)) -> settings:
    """Return this operator's number of examples, of which each of `parts` tests takes its own."""
    return settings(max_examples=max(1, -int(-EXAMPLES * SHARES[operator] // parts)))


@pytest.fixture(scope="module")
def attention_kernels(kernels: Library) -> Library:
    if not any(name.startswith("aggregated_attention_backward") for name in kernels.kernels):
        pytest.skip("no kernels of aggregated attention's backward")
    return kernels


@contextmanager
def deterministic_algorithms(chosen: bool) -> Iterator[None]:
    """Ask for them, or not, as ``torch.use_deterministic_algorithms`` does."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(chosen)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def suppress_small_gpus() -> Iterator[None]:
    """Pass over the error of a plan whose blocks do not fit."""
    try:
        yield
    except ValueError as error:
        if "fits into shared memory" not in str(error):
            raise


def emulate_attention(kernels: Library, case: AttentionCase) -> None:
    """Check a case of attention, planned for the next GPU that its blocks fit on; every third seed
    asks for deterministic algorithms.

    A head dim and window that fit on none are not drawn: the backend says so before it runs.
    """
    name = str(case.dtype).removeprefix("torch.")
    for turn in range(len(CAPABILITIES)):
        capability = CAPABILITIES[(case.seed + turn) % len(CAPABILITIES)]
        if _cpp.attention_fits(name, case.head_dim, case.window_size, capability):
            runner = EmulatedKernels(kernels, capability, case.seed)
            with use_runner(runner), deterministic_algorithms(case.seed % 3 == 0):
                check_attention(case, "cpp")
            return
    reject()


def emulate(kernels: Library, seed: int, check: Callable[..., None], *arguments: Any) -> None:
    """Call a check with the compiled backend, its kernels emulated; every third seed has fewer
    blocks than planned."""
    most_blocks = 2 if seed % 3 == 0 else None
    runner = EmulatedKernels(kernels, CAPABILITIES[seed % len(CAPABILITIES)], seed, most_blocks)
    with use_runner(runner):
        check(*arguments)


@storage
@share("aggregated_attention")
@given(data=st.data())
def test_aggregated_attention(
    attention_kernels: Library, dtype: torch.dtype, data: st.DataObject
) -> None:
    case = data.draw(attention_cases(dtype=st.just(dtype)))
    emulate_attention(attention_kernels, case)


@storage
@share("global_attention")
@given(data=st.data())
def test_global_attention(
    attention_kernels: Library, dtype: torch.dtype, data: st.DataObject
) -> None:
    case = data.draw(attention_cases(window=st.just(0), dtype=st.just(dtype)))
    emulate_attention(attention_kernels, case)


@storage
@pytest.mark.parametrize(
    "changes",
    [
        *EDGES_OF_ATTENTION,
        *EDGES_OF_TILES,
        {"grid": (9, 60), "pool_grid": (3, 4), "batch": 1},
        {"head_dim": 128, "grid": (5, 5)},
        # Logits of large terms that cancel; gradients that rounding alone takes out of range.
        {"grid": (7, 8), "pool_grid": (5, 7), "head_dim": 16, "magnitude": "extreme logits"},
        {"grid": (5, 9), "pool_grid": (5, 9), "head_dim": 64, "window_size": 0,
         "layout": "contiguous", "magnitude": "extreme logits", "optional": (False,) * 4},
        {"grid": (2, 3), "pool_grid": (1, 3), "head_dim": 64, "layout": "contiguous",
         "magnitude": "zero vectors", "bias": "dense"},
    ],
    ids=str,
)  # fmt: skip
def test_edges_of_attention(attention_kernels: Library, dtype: torch.dtype, changes: dict) -> None:
    for seed in range(len(CAPABILITIES)):
        emulate_attention(attention_kernels, edge(dtype=dtype, seed=seed, **changes))


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_attention_in_several_steps(
    attention_kernels: Library, dtype: torch.dtype, capability: int
) -> None:
    """The backward pass walks down an image only where there are enough images for a GPU."""
    sizes = {"grid": (14, 2), "pool_grid": (5, 2), "batch": 16, "heads": 8, "head_dim": 8}
    case = edge(dtype=dtype, seed=1, **sizes)  # rows of a step of 8 and of one of 6
    runner = EmulatedKernels(attention_kernels, capability, case.seed)
    with use_runner(runner):
        check_attention(case, "cpp")
    (blocks,) = (count for kernel, count in runner.blocks.items() if "_strips" in kernel)
    assert blocks == case.batch * case.heads
    # Where there is room for their weights, strips own the pooled keys too.
    assert any("backward_pooled<" in kernel for kernel in runner.kernels) == (capability < 90)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("deterministic", [False, True])
def test_large_logits_are_the_same_in_every_kernel(
    attention_kernels: Library, dtype: torch.dtype, deterministic: bool
) -> None:
    """Logits of 5e4 that two kernels compute, with the query embedding in two ways, differ by more
    than a weight's exponent may."""
    sizes = {"grid": (5, 8), "pool_grid": (3, 3), "window_size": 1, "batch": 1, "heads": 3}
    case = edge(
        dtype=dtype, head_dim=8, layout="contiguous", magnitude="extreme logits", seed=33786372,
        **sizes,
    )  # fmt: skip
    runner = EmulatedKernels(attention_kernels, 80, case.seed)
    with use_runner(runner), deterministic_algorithms(deterministic):
        check_attention(case, "cpp")


def emulate_attention_on_tf32(kernels: Library, case: AttentionCase) -> None:
    """Check a case of float32 attention planned for a GPU that has TF32."""
    capability = (80, 90, 120)[case.seed % 3]
    runner = EmulatedKernels(kernels, capability, case.seed)
    with use_runner(runner):
        check_attention_on_tf32(case, "cpp")
    assert all("TensorFloat32" in kernel for kernel in runner.kernels)


@share("attention_on_tf32", parts=1)
@given(
    case=attention_cases(
        window=st.sampled_from((3, 0, 1, 2, 4, 7)), dtype=st.just(torch.float32),
        head_dim=st.sampled_from((24, 8, 16, 9)),
    )
)  # fmt: skip
def test_attention_on_tf32(kernels: Library, case: AttentionCase) -> None:
    emulate_attention_on_tf32(kernels, case)


@pytest.mark.parametrize(
    "changes",
    [
        *EDGES_OF_ATTENTION,
        *EDGES_OF_TILES,
        {"magnitude": "tiny", "layout": "contiguous"},
        {"grid": (5, 6), "pool_grid": (5, 6), "bias": "none", "optional": (False,) * 4},
    ],
    ids=str,
)
def test_edges_of_attention_on_tf32(kernels: Library, changes: dict) -> None:
    for seed in range(3):
        emulate_attention_on_tf32(kernels, edge(seed=seed, **changes))


def test_whether_tf32_is_allowed_is_asked_at_every_call(kernels: Library) -> None:
    case = edge(batch=1, heads=1)
    inputs = {name: x for name, x in case.tensors().items() if name != "pool_bias"}
    sizes: dict[str, Any] = {"grid": case.grid, "pool_grid": case.pool_grid, "window_size": 3}

    def kernel(capability: int = 80, dtype: torch.dtype = torch.float32) -> str:
        runner = EmulatedKernels(kernels, capability)
        given = {
            name: x.to(dtype) if name in ("q", "k", "v", "k_pool", "v_pool") else x
            for name, x in inputs.items()
        }
        with use_runner(runner):
            ops.aggregated_attention(**given, **sizes, backend="cpp")
        (name,) = runner.kernels
        return name.partition("<")[2].partition(",")[0]

    assert kernel() == "float"  # as PyTorch comes
    with tf32(True):
        assert kernel() == "TensorFloat32"
        assert kernel(capability=75) == "float"
        assert kernel(dtype=torch.float16) == "Half"
    with tf32(False):
        assert kernel() == "float"
    assert kernel() == "float"


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e5])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_tokens_beyond_the_range_of_the_storage_type(kernels: Library, dtype, size) -> None:
    """Tokens are float32; products of 16-bit types take them scaled, as two numbers each."""
    case = edge(dtype=dtype, grid=(9, 11), seed=3)
    inputs = case.tensors()
    tokens = inputs["tokens"] * size
    inputs["v"] = inputs["v"] / max(size / 100, 1)  # results stay in range
    sizes = {"grid": case.grid, "pool_grid": case.pool_grid, "window_size": case.window_size}
    with use_runner(EmulatedKernels(kernels, 90, case.seed)):
        out = ops.aggregated_attention(**{**inputs, "tokens": tokens}, **sizes, backend="cpp")
    expected = ops.aggregated_attention(
        **{**inputs, "tokens": tokens}, **sizes, backend="reference"
    ).double()
    unit = torch.finfo(dtype).eps
    # Of the largest of a head's results: its tokens are exact to 2^-16 of the largest one.
    assert (out.double() - expected).abs().max() <= 8 * unit * expected.abs().max()


@storage
@pytest.mark.parametrize("pool_grid", [(3, 2), (9, 8)], ids=str)
def test_a_table_whose_maps_do_not_grow_by_one(attention_kernels: Library, dtype, pool_grid):
    """Two rows of the image share the table's row, as no extrapolation has it."""
    case = edge(dtype=dtype, grid=(9, 11), pool_grid=pool_grid, batch=1, heads=1)
    inputs = case.tensors()
    bias = inputs.pop("pool_bias")
    other = ops.PositionBias(bias.table, bias.row_map // 2, bias.col_map, bias.col_weights)
    sizes = {"grid": case.grid, "pool_grid": case.pool_grid, "window_size": case.window_size}
    results = []
    for backend in ("cpp", "reference"):
        q = inputs["q"].detach().requires_grad_()
        with use_runner(EmulatedKernels(attention_kernels, 90, case.seed)):
            given = {**inputs, "q": q, "pool_bias": other}
            out = ops.aggregated_attention(**given, **sizes, backend=backend)
            results.append((out.detach(), *torch.autograd.grad(out, q, torch.ones_like(out))))
    unit = max(torch.finfo(dtype).eps, 1e-5)
    for actual, expected in zip(*results, strict=True):
        assert (actual - expected).abs().max() <= 16 * unit * expected.abs().max()


@storage
@token_operators
@share("each token operator")
@given(data=st.data())
def test_token_operators(
    kernels: Library, operator: TokenOperator, dtype: torch.dtype, data: st.DataObject
) -> None:
    case = data.draw(operator.cases(st.just(dtype)))
    emulate(kernels, case.seed, operator.check, case, "cpp")


@storage
@share("deformable_attention")
@given(data=st.data())
def test_deformable_attention(kernels: Library, dtype: torch.dtype, data: st.DataObject) -> None:
    case = data.draw(deformable_cases(st.just(dtype)))
    with deterministic_algorithms(case.seed % 2 == 0):
        emulate(kernels, case.seed, check_deformable_attention, case, "cpp")


@storage
def test_gradients_that_are_no_numbers_are_everywhere_where_sums_are_whole_numbers(
    kernels: Library, dtype: torch.dtype
) -> None:
    tensors = ordinary(dtype=dtype, heads=1, queries=3).tensors()
    for spoilt in ("d_out", "logits", None):
        inputs = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
        if spoilt == "logits":
            inputs["logits"] = inputs["logits"].detach().fill_(math.nan)
        with use_runner(EmulatedKernels(kernels)), deterministic_algorithms(True):
            out = ops.deformable_attention(**inputs, shapes=ORDINARY.shapes, backend="cpp")
            d_out = torch.ones_like(out)
            if spoilt == "d_out":
                d_out[0, 0, 0, 0] = math.inf
            (d_value,) = torch.autograd.grad(out, [inputs["value"]], d_out)
        assert d_value.isnan().all() if spoilt else d_value.isfinite().all(), spoilt


@storage
@pytest.mark.parametrize(
    "sizes",
    [
        {"grid": (5, 37), "window_size": 3, "channels": 24},  # several tiles, the last one narrow
        {"grid": (19, 18), "window_size": 4, "channels": 8},
        {"grid": (9, 7), "window_size": 13, "channels": 64},  # a window of several bands
        {"grid": (4, 9), "window_size": 9, "channels": 300},  # several tiles of channels
    ],
    ids=str,
)
def test_edges_of_windows(kernels: Library, dtype: torch.dtype, sizes: dict) -> None:
    for seed, layout in enumerate(("contiguous", "sliced", "packed", "strided")):
        case = TokenCase(batch=1, heads=2, dtype=dtype, layout=layout, seed=seed, **sizes)
        emulate(kernels, seed, agreement.check_window_qk, case, "cpp")
        emulate(kernels, seed, agreement.check_window_av, case, "cpp")


@storage
@pytest.mark.parametrize(
    "sizes",
    [
        {"grid": (23, 11), "pool_grid": (5, 4), "channels": 200},
        {"grid": (3, 41), "pool_grid": (2, 40), "channels": 70},
    ],
    ids=str,
)
def test_edges_of_tokens(kernels: Library, dtype: torch.dtype, sizes: dict) -> None:
    """More tiles than one in every direction."""
    for seed, layout in enumerate(("contiguous", "sliced", "packed", "strided")):
        case = TokenCase(batch=2, dtype=dtype, layout=layout, seed=seed, **sizes)
        emulate(kernels, seed, agreement.check_conv_glu, case, "cpp")
        emulate(kernels, seed, agreement.check_gelu_pool, case, "cpp")


def test_window_av_ignores_weights_outside_the_image(kernels: Library) -> None:
    with use_runner(EmulatedKernels(kernels)):
        agreement.check_window_av_ignores_weights_outside_the_image("cpp")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_half_is_read_exactly_and_every_rounding_is_to_even(kernels: Library, dtype) -> None:
    """window_av with a window of one cell multiplies: by 1 it copies all finite values, and
    products of two halves fall between and halfway between halves."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    v = bits[torch.isfinite(bits)].reshape(1, 1, -1, 1)
    grid = (1, v.numel())
    for factor in (1.0, 1.5, 1.0 + 2.0**-7, 0.375):
        attn = torch.full_like(v, factor)
        with use_runner(EmulatedKernels(kernels)):
            actual = ops.window_av(attn, v, grid=grid, window_size=1, backend="cpp")
        expected = (v.float() * attn.float() + 0.0).to(dtype)  # a sum of zeros is +0
        assert torch.equal(actual.view(torch.int16), expected.view(torch.int16)), factor


@share("position_bias", parts=1)
@given(case=position_bias_cases())
@example(case=PositionBiasCase((1, 1), (0.0, 0.0), (1, 1), ((9, 9), (1.0, 1.0)), 1, 16, 0))
@example(case=PositionBiasCase((6, 5), (0.5, 0.5), (7, 7), None, 2, 300, 0))
# A sum that cancels:
@example(case=PositionBiasCase((5, 5), (0.0, 0.0), (1, 1), ((1, 4), (0.0, 0.0)), 1, 1, 1869))
def test_position_bias(kernels: Library, case: PositionBiasCase) -> None:
    """The table's kernels, in both bias modes; parameters are float32 for every storage type."""
    emulate(kernels, case.seed, check_position_bias, case, "cpp")


def test_every_instance_of_every_kernel_runs(attention_kernels: Library) -> None:
    """The chosen cases of the PTX tests, in every storage type and for every architecture."""
    ran: set[str] = set()
    for checks in CASES.values():
        for check in checks.values():
            for dtype in DTYPES:
                for seed, capability in enumerate(CAPABILITIES):
                    runner = EmulatedKernels(attention_kernels, capability, seed)
                    # What does not fit on one GPU runs on another, or is missing in the end.
                    with use_runner(runner), suppress_small_gpus():
                        check("cpp", dtype)
                    ran |= runner.kernels
    assert ran == attention_kernels.kernels
