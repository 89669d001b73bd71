"""The compiled residual branches against the reference, composed from its operators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

import transnext_reference as reference
from benchmarks.shapes.grids import OnGrids
from strategies import DTYPES, Numbers, compute_dtype, grids, layouts, seeds
from tolerances import FORWARD, assert_agrees
from transnext_ops import fused_blocks
from transnext_reference.numerics import layer_norm

_cpp = pytest.importorskip("transnext_ops._cpp")
LEVELS = _cpp.available_cpu_levels()
EPSILON, POOL_EPSILON = 1e-6, 1e-5
# A product is off by 2^-18 of itself, and what it is summed with may cancel.
SPLIT_ERROR = 2.0**-15
TILES = tuple(name for name in LEVELS if name.startswith("amx"))


@contextmanager
def setting(level: str, threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    _cpp.set_cpu_level(level)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _cpp.set_cpu_level(None)


@dataclass(frozen=True)
class BranchCase(OnGrids):
    """Tokens of a grid and what runs on them."""

    batch: int
    grid: tuple[int, int]
    pool_grid: tuple[int, int]
    heads: int
    head_dim: int
    hidden: int
    storage: torch.dtype  # of x
    features: torch.dtype
    layout: str
    bias: bool
    precision: fused_blocks.Precision
    level: str
    threads: int
    seed: int

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def tolerance_dtype(self) -> torch.dtype:
        return max((self.storage, self.features), key=lambda dtype: FORWARD[dtype])

    def pack(self, weight: Tensor) -> fused_blocks.PackedWeight:
        return fused_blocks.pack_weight(weight, self.features, precision=self.precision)

    def condition(self, expected: np.ndarray) -> float:
        """Return what products of split float32 may be off by, beside float32's tolerance."""
        return SPLIT_ERROR * float(np.linalg.norm(expected)) if self.precision == "high" else 0.0


@st.composite
def branch_cases(draw: st.DrawFn) -> BranchCase:
    grid = draw(grids)
    storage = draw(st.sampled_from(DTYPES))
    features = storage
    if storage == torch.float32:  # as under autocast
        features = draw(st.sampled_from((torch.float32, torch.bfloat16, torch.float16)))
    level = draw(st.sampled_from(LEVELS))
    may_split = features == torch.float32 and level in TILES
    return BranchCase(
        batch=draw(st.sampled_from((1, 2, 3, 0))),
        grid=grid,
        pool_grid=(draw(st.integers(1, grid[0])), draw(st.integers(1, grid[1]))),
        heads=draw(st.sampled_from((1, 2, 3))),
        head_dim=draw(st.sampled_from((24, 8, 9, 32))),
        hidden=draw(st.sampled_from((48, 1, 7, 64, 100))),
        storage=storage,
        features=features,
        layout=draw(layouts),
        bias=draw(st.booleans()),
        precision=draw(st.sampled_from(("highest", "high"))) if may_split else "highest",
        level=level,
        threads=draw(st.sampled_from((1, 2, 3, 7))),
        seed=draw(seeds),
    )


def case(**changes: Any) -> BranchCase:
    """An ordinary case, changed."""
    ordinary: dict[str, Any] = {
        "batch": 2, "grid": (6, 5), "pool_grid": (2, 2), "heads": 2, "head_dim": 24, "hidden": 128,
        "storage": torch.float32, "features": torch.float32, "layout": "contiguous", "bias": True,
        "precision": "highest", "level": LEVELS[-1], "threads": 2, "seed": 0,
    }  # fmt: skip
    return BranchCase(**{**ordinary, **changes})


def split_case(**changes: Any) -> BranchCase:
    """A case with products of split float32, where a level has them."""
    precision = "high" if TILES else "highest"
    return case(precision=precision, level=(TILES or LEVELS)[-1], **changes)


def rounded(tensor: Tensor, dtype: torch.dtype) -> np.ndarray:
    """A weight as its product sees it."""
    product = torch.bfloat16 if dtype == torch.bfloat16 else compute_dtype(dtype)
    return tensor.to(product).double().numpy()


def norm_weights(numbers: Numbers, width: int, dtype: torch.dtype, epsilon: float):
    weight = numbers.parameter(width, dtype=dtype, scale=0.2) + 1
    return fused_blocks.NormWeights(
        weight, numbers.parameter(width, dtype=dtype, scale=0.2), epsilon
    )


def normalised(x: np.ndarray, norm: fused_blocks.NormWeights) -> np.ndarray:
    return layer_norm(x, norm.weight.double().numpy(), norm.bias.double().numpy(), norm.epsilon)


def tokens_of(case: BranchCase, numbers: Numbers) -> Tensor:
    shape = (case.batch, case.length, case.width)
    return numbers.activation(*shape, dtype=case.storage, layout=case.layout)


def weights_of_glu(
    case: BranchCase,
    norm: fused_blocks.NormWeights,
    fc1: Tensor,
    conv: Tensor,
    fc2: Tensor,
    biases: list[Tensor] | list[None],
) -> fused_blocks.ConvGluResidualWeights:
    values, gates = map(case.pack, fc1.chunk(2))
    fc1_bias, conv_bias, fc2_bias = biases
    return fused_blocks.ConvGluResidualWeights(
        norm, values, gates, fc1_bias, conv, conv_bias, case.pack(fc2), fc2_bias
    )


@given(branch_cases())
@example(case(grid=(3, 161)))  # three tiles of columns
@example(case(grid=(40, 3), batch=1, threads=7))  # bands of rows
@example(case(grid=(12, 20), batch=1, threads=7))  # too thin for bands: one step after the other
@example(case(grid=(14, 14), batch=1, threads=3))  # split by panels
@example(case(grid=(20, 20), batch=3, heads=6, threads=1))  # groups of two images and one
@example(case(grid=(5, 4), batch=5, threads=1))  # two images a step, and one
@example(case(grid=(7, 7), batch=15, storage=torch.bfloat16, features=torch.bfloat16))  # 4, 4, 4, 3
@example(case(grid=(9, 60), batch=1, storage=torch.bfloat16, features=torch.bfloat16))
@example(case(grid=(1, 1), hidden=1, head_dim=8, heads=1))
@example(case(hidden=1024, grid=(3, 3)))
@example(split_case(grid=(9, 60), hidden=100))
def test_conv_glu_residual_agrees_with_the_reference(case: BranchCase) -> None:
    numbers = Numbers(case.seed)
    dtype, hidden, width = case.features, case.hidden, case.width
    x = tokens_of(case, numbers)
    norm = norm_weights(numbers, width, dtype, EPSILON)
    fc1 = numbers.parameter(2 * hidden, width, dtype=dtype, scale=width**-0.5)
    fc2 = numbers.parameter(width, hidden, dtype=dtype, scale=hidden**-0.5)
    conv = numbers.parameter(hidden, 1, 3, 3, dtype=dtype, scale=0.4)
    biases = [numbers.parameter(n, dtype=dtype, scale=0.3) for n in (2 * hidden, hidden, width)]
    fc1_bias, conv_bias, fc2_bias = biases if case.bias else (None, None, None)
    with setting(case.level, case.threads):
        weights = weights_of_glu(case, norm, fc1, conv, fc2, biases if case.bias else [None] * 3)
        actual = fused_blocks.conv_glu_residual(x, weights, grid=case.grid, features=dtype)
        again = fused_blocks.conv_glu_residual(x, weights, grid=case.grid, features=dtype)
    assert torch.equal(actual, again)
    assert actual.dtype == x.dtype

    exact = x.double().numpy()
    b1, bc, b2 = (
        np.zeros(1) if b is None else b.double().numpy() for b in (fc1_bias, conv_bias, fc2_bias)
    )
    both = normalised(exact, norm) @ rounded(fc1, dtype).T + b1
    gated = reference.conv_glu(
        both, conv.double().numpy(), np.broadcast_to(bc, (hidden,)), grid=case.grid
    )
    expected = exact + gated @ rounded(fc2, dtype).T + b2
    work = width + hidden + 9
    assert_agrees(
        "out", actual, expected,
        dtype=case.tolerance_dtype, work=work, condition=case.condition(expected),
    )  # fmt: skip


@pytest.mark.parametrize("grid", [(13, 9), (4, 5)], ids=str)  # the second's go several together
@pytest.mark.parametrize("features", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("level", LEVELS)
def test_a_small_image_has_the_same_bits_on_any_number_of_threads(level, features, grid) -> None:
    sizes = case(hidden=200, grid=grid, features=features, storage=features, level=level)
    numbers, width = Numbers(1), sizes.width
    norm = norm_weights(numbers, width, features, EPSILON)
    fc1 = numbers.parameter(400, width, dtype=features, scale=width**-0.5)
    fc2 = numbers.parameter(width, 200, dtype=features, scale=0.07)
    conv = numbers.parameter(200, 1, 3, 3, dtype=features, scale=0.4)
    biases = [numbers.parameter(n, dtype=features, scale=0.3) for n in (400, 200, width)]
    for batch in (1, 2, 3):
        x = tokens_of(replace(sizes, batch=batch), numbers)
        found = []
        for threads in (1, 2, 3, 4, 5):
            with setting(level, threads):
                weights = weights_of_glu(sizes, norm, fc1, conv, fc2, biases)
                found.append(fused_blocks.conv_glu_residual(x, weights, grid=sizes.grid))
        assert all(torch.equal(each, found[0]) for each in found)


@given(branch_cases(), st.booleans())
@example(case(grid=(28, 28), pool_grid=(7, 7), batch=1), False)
@example(case(grid=(20, 20), batch=3, heads=6, threads=1), False)  # groups of two images and one
@example(case(grid=(7, 7), batch=3, heads=3), True)
@example(case(grid=(5, 30), storage=torch.bfloat16, features=torch.bfloat16), False)
@example(split_case(grid=(14, 14), pool_grid=(7, 7)), False)
def test_attention_residual_agrees_with_the_reference(case: BranchCase, is_global: bool) -> None:
    numbers = Numbers(case.seed)
    dtype, width, heads, dim = case.features, case.width, case.heads, case.head_dim
    pool_grid = case.grid if is_global else case.pool_grid
    window, cells = (None, 0) if is_global else (3, 9)
    x = tokens_of(case, numbers)
    norm = norm_weights(numbers, width, dtype, EPSILON)
    pool_norm = norm_weights(numbers, width, dtype, POOL_EPSILON)
    parts = 3 if is_global else 4
    projections = numbers.parameter(parts * width, width, dtype=dtype, scale=width**-0.5)
    out_projection = numbers.parameter(width, width, dtype=dtype, scale=width**-0.5)
    bias = numbers.parameter(parts * width, dtype=dtype, scale=0.3) if case.bias else None
    out_bias = numbers.parameter(width, dtype=dtype, scale=0.3) if case.bias else None
    pool_length = pool_grid[0] * pool_grid[1]
    pool_bias = numbers.parameter(heads, case.length, pool_length, dtype=dtype)
    parameters: dict[str, Tensor] = {
        "scale": numbers.parameter(heads, dtype=dtype).abs() + 0.5,
        "query_embedding": numbers.parameter(heads, dim, dtype=dtype, scale=0.1),
    }
    if not is_global:
        parameters["local_bias"] = numbers.parameter(heads, cells, dtype=dtype)
        parameters["tokens"] = numbers.parameter(heads, dim, cells, dtype=dtype, scale=0.3)
        parameters["token_bias"] = numbers.parameter(heads, cells, dtype=dtype)
    with setting(case.level, case.threads):
        weights = fused_blocks.AttentionResidualWeights(
            norm,
            case.pack(projections),
            bias,
            None if is_global else pool_norm,
            None if is_global else case.pack(projections[width : 3 * width]),
            case.pack(out_projection),
            out_bias,
            **parameters,
        )
        keywords: dict[str, Any] = {
            "grid": case.grid, "pool_grid": pool_grid, "window_size": window,
            "pool_bias": pool_bias, "features": dtype,
        }  # fmt: skip
        actual = fused_blocks.attention_residual(x, weights, **keywords)
        again = fused_blocks.attention_residual(x, weights, **keywords)
    assert torch.equal(actual, again)
    assert actual.dtype == x.dtype

    exact = x.double().numpy()
    weight = rounded(projections, dtype)
    shift = np.zeros(parts * width) if bias is None else bias.double().numpy()
    projected = normalised(exact, norm) @ weight.T + shift

    def split(y: np.ndarray, part: int) -> np.ndarray:
        return y[..., part * width : (part + 1) * width].reshape(*y.shape[:2], heads, dim)

    named = {name: value.double().numpy() for name, value in parameters.items()}
    named["pool_bias"] = pool_bias.double().numpy()
    if is_global:
        q, k, v = (split(projected, part) for part in range(3))
        named["bias"] = named.pop("pool_bias")
        attended = reference.global_attention(q, k, v, grid=case.grid, **named)
    else:
        q, k, v = (split(projected, part) for part in range(3))
        pooled = reference.gelu_pool(
            projected[..., 3 * width :], grid=case.grid, pool_grid=pool_grid
        )
        kv = normalised(pooled, pool_norm) @ weight[width : 3 * width].T + shift[width : 3 * width]
        attended = reference.aggregated_attention(
            q, k, v, split(kv, 0), split(kv, 1),
            grid=case.grid, pool_grid=pool_grid, window_size=3, **named,
        )  # fmt: skip
    if isinstance(attended, tuple):
        attended = attended[0]
    out_shift = 0.0 if out_bias is None else out_bias.double().numpy()
    expected = exact + attended.reshape(exact.shape) @ rounded(out_projection, dtype).T + out_shift
    # A layer norm divides by the spread of its row, and the softmax follows what it makes of it.
    work = 4 * (3 * width + cells + pool_length)
    assert_agrees(
        "out", actual, expected,
        dtype=case.tolerance_dtype, work=work, condition=case.condition(expected),
    )  # fmt: skip


@given(
    branch_cases(),
    st.sampled_from(((7, 4), (3, 2), (1, 1), (2, 2), (4, 3))),
    st.sampled_from((1, 3, 8)),
    st.booleans(),
)
@example(case(grid=(33, 40)), (7, 4), 3, False)
@example(case(grid=(17, 9), storage=torch.bfloat16, features=torch.bfloat16), (3, 2), 24, True)
@example(split_case(grid=(17, 9)), (7, 4), 3, False)
def test_patch_embed_agrees_with_the_reference(
    case: BranchCase, kernel_stride: tuple[int, int], channels: int, channels_last: bool
) -> None:
    kernel, stride = kernel_stride
    numbers = Numbers(case.seed)
    dtype, columns = case.features, case.width
    height, width = (max(size, kernel) for size in case.grid)
    shape = (case.batch, channels, height, width)
    x = numbers.activation(*shape, dtype=case.storage, layout=case.layout)
    weight = numbers.parameter(
        columns, channels, kernel, kernel, dtype=dtype, scale=(channels * kernel**2) ** -0.5
    )
    bias = numbers.parameter(columns, dtype=dtype, scale=0.3) if case.bias else None
    norm = norm_weights(numbers, columns, dtype, POOL_EPSILON)
    with setting(case.level, case.threads):
        packed = fused_blocks.pack_convolution(
            weight, dtype, channels_last=channels_last, precision=case.precision
        )
        weights = fused_blocks.PatchEmbedWeights(packed, channels_last, bias, norm)
        actual = fused_blocks.patch_embed(
            x, weights, kernel_size=kernel, stride=stride, features=dtype
        )
    shift = np.zeros(columns) if bias is None else bias.double().numpy()
    exact = convolution(x.double().numpy(), rounded(weight, dtype), shift, stride, kernel // 2)
    expected = normalised(exact.transpose(0, 2, 3, 1).reshape(actual.shape), norm)
    # The norm divides by the spread of a token's columns, which may be far less than their size.
    work = 16 * channels * kernel**2
    assert_agrees(
        "out", actual, expected,
        dtype=case.tolerance_dtype, work=work, condition=case.condition(expected),
    )  # fmt: skip


def convolution(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, padding: int
) -> np.ndarray:
    """Strided convolution, one tap at a time."""
    kernel = weight.shape[2]
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    height, width = ((n - kernel) // stride + 1 for n in padded.shape[2:])
    out = np.zeros((x.shape[0], weight.shape[0], height, width)) + bias[:, None, None]
    for dy in range(kernel):
        for dx in range(kernel):
            seen = padded[
                :, :, dy : dy + stride * height : stride, dx : dx + stride * width : stride
            ]
            out += np.einsum("bchw,oc->bohw", seen[:, :, :height, :width], weight[:, :, dy, dx])
    return out


@given(branch_cases())
@example(case(grid=(1, 1), batch=1, heads=1, head_dim=9, threads=7))
@example(case(grid=(14, 14), storage=torch.bfloat16, features=torch.bfloat16, layout="strided"))
def test_token_norm_agrees_with_the_reference(case: BranchCase) -> None:
    numbers = Numbers(case.seed)
    x = tokens_of(case, numbers)
    norm = norm_weights(numbers, case.width, case.storage, EPSILON)
    in_place = x.clone()
    with setting(case.level, case.threads):
        actual = fused_blocks.token_norm(x, norm)
        _cpp.token_norm(in_place, norm.weight, norm.bias, in_place, norm.epsilon, case.threads)
    assert actual.dtype == x.dtype
    assert actual.is_contiguous()
    assert torch.equal(in_place, actual)
    expected = normalised(x.double().numpy(), norm)
    # The mean of a token's channels, and of their squares, in any order.
    assert_agrees("out", actual, expected, dtype=case.storage, work=case.width)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_token_norm_is_as_accurate_as_pytorch(dtype: torch.dtype) -> None:
    numbers = Numbers(3)
    norm = norm_weights(numbers, 288, dtype, EPSILON)
    x = numbers.activation(2, 196, 288, dtype=dtype) * 3 + 1
    theirs = torch.nn.functional.layer_norm(x, (288,), norm.weight, norm.bias, EPSILON)
    exact = normalised(x.double().numpy(), norm)
    errors = [
        np.linalg.norm(found.double().numpy() - exact)
        for found in (fused_blocks.token_norm(x, norm), theirs)
    ]
    assert errors[0] <= 1.5 * errors[1]  # narrow vectors sum a mean in fewer parts


@given(branch_cases(), st.integers(1, 70), st.booleans())
@example(case(grid=(1, 1), batch=1, heads=1, head_dim=9, threads=7), 1, False)
@example(case(grid=(7, 7), storage=torch.bfloat16, layout="strided"), 67, True)
def test_pooled_linear_agrees_with_the_reference(
    case: BranchCase, classes: int, transposed: bool
) -> None:
    numbers = Numbers(case.seed)
    x = tokens_of(case, numbers)
    weight = numbers.activation(classes, case.width, dtype=case.storage)
    weight = weight.t().contiguous().t() if transposed else weight
    bias = numbers.activation(classes, dtype=case.storage) if case.bias else None
    with setting(case.level, case.threads):
        actual = fused_blocks.pooled_linear(x, weight, bias)
        alone = fused_blocks.pooled_linear(x[-1:], weight, bias)
    assert actual.dtype == x.dtype
    assert torch.equal(actual[-1:], alone)  # whatever the batch
    shift = 0.0 if bias is None else bias.double().numpy()
    expected = x.double().numpy().mean(1) @ weight.double().numpy().T + shift
    assert_agrees("out", actual, expected, dtype=case.storage, work=x.shape[1] + case.width)


def glu_weights(width: int = 24, hidden: int = 32, dtype: torch.dtype = torch.float32):
    numbers = Numbers(0)
    fc1 = numbers.parameter(2 * hidden, width, dtype=dtype)
    return fused_blocks.ConvGluResidualWeights(
        norm_weights(numbers, width, dtype, EPSILON),
        *(fused_blocks.pack_weight(half, dtype) for half in fc1.chunk(2)),
        None,
        numbers.parameter(hidden, 1, 3, 3, dtype=dtype),
        None,
        fused_blocks.pack_weight(numbers.parameter(width, hidden, dtype=dtype), dtype),
        None,
    )


@pytest.mark.parametrize(
    ("x", "keywords", "message"),
    [
        (torch.zeros(1, 5, 24), {}, r"x: got \(1, 5, 24\), needs \[B, N, C\] with N = 2 \* 3"),
        (torch.zeros(1, 6, 25), {}, "C = 24 of the packed weights"),
        (torch.zeros(6, 24), {}, r"x: got \(6, 24\)"),
        (torch.zeros(1, 6, 24), {"features": torch.bfloat16}, "features: got torch.bfloat16"),
        (torch.zeros(1, 6, 24).double(), {}, "features: got torch.float64"),
    ],
)
def test_arguments_are_checked(x, keywords, message) -> None:
    with pytest.raises(ValueError, match=message):
        fused_blocks.conv_glu_residual(x, glu_weights(), grid=(2, 3), **keywords)


def test_the_arguments_of_a_norm_are_checked() -> None:
    norm = norm_weights(Numbers(0), 24, torch.float32, EPSILON)
    with pytest.raises(TypeError, match="x: got list, needs a"):
        fused_blocks.token_norm([1.0], norm)
    for shape in ((6, 24), (1, 6, 25), (1, 2, 3, 24)):
        with pytest.raises(ValueError, match=r"x: got \(.*\), needs \[B, N, C\] with C = 24"):
            fused_blocks.token_norm(torch.zeros(shape), norm)
    with pytest.raises(ValueError, match="x: got device meta, needs the CPU"):
        fused_blocks.token_norm(torch.zeros(1, 6, 24, device="meta"), norm)
    with pytest.raises(ValueError, match="norm_weight is float32, needs float64"):
        fused_blocks.token_norm(torch.zeros(1, 6, 24).double(), norm)
    with pytest.raises(ValueError, match="norm_weight is None, needs a tensor"):
        _cpp.token_norm(torch.zeros(1, 6, 24), None, None, torch.zeros(1, 6, 24), EPSILON, 1)


def test_pooled_linear_names_what_does_not_fit() -> None:
    x, weight = torch.zeros(1, 6, 24), torch.zeros(5, 24)
    with pytest.raises(TypeError, match=r"x: got list, needs a torch\.Tensor"):
        fused_blocks.pooled_linear([1.0], weight)
    for tokens, classes in ((x[0], weight), (x, weight[0]), (x, weight[:, :23])):
        with pytest.raises(ValueError, match=r"x, weight: got \(.*need \[B, N, C\] and \[K, C\]"):
            fused_blocks.pooled_linear(tokens, classes)
    with pytest.raises(ValueError, match="x: got device meta, needs the CPU"):
        fused_blocks.pooled_linear(x.to("meta"), weight)
    with pytest.raises(ValueError, match="weight is float64, needs float32"):
        fused_blocks.pooled_linear(x, weight.double())
    with pytest.raises(ValueError, match=r"bias has shape \[4\], needs \[5\]"):
        fused_blocks.pooled_linear(x, weight, torch.zeros(4))


def test_a_weight_must_be_a_matrix_on_the_cpu() -> None:
    with pytest.raises(ValueError, match=r"weight: got shape \(3,\)"):
        fused_blocks.pack_weight(torch.zeros(3), torch.float32)
    with pytest.raises(TypeError, match=r"dtype: got torch\.int32"):
        fused_blocks.pack_weight(torch.zeros(3, 3), torch.int32)
    with pytest.raises(ValueError, match=r"precision: got 'high' with torch\.bfloat16, needs"):
        fused_blocks.pack_weight(torch.zeros(3, 3), torch.bfloat16, precision="high")


def test_there_is_no_gradient_and_it_says_so() -> None:
    x = torch.zeros(1, 6, 24, requires_grad=True)
    out = fused_blocks.conv_glu_residual(x, glu_weights(), grid=(2, 3))
    with pytest.raises(NotImplementedError, match="for inference"):
        out.sum().backward()


def test_opcheck() -> None:
    weights = glu_weights()
    x = torch.randn(2, 6, 24)
    torch.library.opcheck(
        torch.ops.transnext.conv_glu_residual.default,
        (x, weights.norm.weight, weights.norm.bias, weights.values.data, weights.gates.data, None,
         weights.conv_weight, None, weights.fc2.data, None, (2, 3), EPSILON, "cpp"),
    )  # fmt: skip
