"""NaN and infinities: as PyTorch's own composition has them, none lost, none in another image.

The oracle is the operator's formula in PyTorch in float64. (In float32, PyTorch's GELU of infinity
is NaN where oneDNN computes it; the formula's, and every other PyTorch's, is infinity.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import transnext_ops as ops
from transnext_ops import fused_blocks

_cpp = pytest.importorskip("transnext_ops._cpp")

NAN, INF = float("nan"), float("inf")
BATCH, GRID, POOL, HEADS, DIM, CHANNELS = 3, (5, 9), (2, 3), 2, 24, 20
LENGTH, POOL_LENGTH, MIDDLE = 45, 6, 22  # the token in the middle, all of whose window is inside
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SETTINGS = [*_cpp.available_cpu_levels(), "reference"]


@pytest.fixture(params=SETTINGS)
def backend(request) -> Iterator[str]:
    """The compiled backend at each of its levels, and the reference."""
    if request.param != "reference":
        _cpp.set_cpu_level(request.param)
    yield "reference" if request.param == "reference" else "cpp"
    _cpp.set_cpu_level(None)


def kinds(tensor: Tensor) -> Tensor:
    """Return 0 for numbers, 1 and -1 for the infinities, 2 for NaN."""
    kinds = tensor.double().nan_to_num(0.0, 1e308, -1e308)
    kinds = (kinds >= 1e308).int() - (kinds <= -1e308).int()
    return torch.where(tensor.isnan(), 2, kinds)


def random(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def parameter(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    return random(*shape, dtype=compute, seed=seed)


def adaptive_pool(x: Tensor) -> Tensor:
    """PyTorch's own composition."""
    image = F.gelu(x).unflatten(1, GRID).movedim(3, 1)
    return F.adaptive_avg_pool2d(image, POOL).flatten(2).transpose(1, 2)


def run(function: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """Return the result and the gradients of a random sum of it."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    out = function(*leaves)
    d_out = random(*out.shape, dtype=out.dtype, seed=99)
    return [out.detach(), *torch.autograd.grad(out, leaves, d_out)]


Case = tuple[list[Tensor], Callable[[str], Callable[..., Tensor]], Callable[..., Tensor]]


def cases(dtype: torch.dtype) -> dict[str, Case]:
    """Return per operator: activations first, the operator of a backend, PyTorch's composition."""

    def by(function: Callable[..., Any], **keywords: Any) -> Callable[[str], Callable[..., Tensor]]:
        return lambda backend: lambda *tensors: function(*tensors, **keywords, backend=backend)

    def act(*shape: int, seed: int) -> Tensor:
        return random(BATCH, *shape, dtype=dtype, seed=seed)

    def par(*shape: int, seed: int) -> Tensor:
        return parameter(*shape, dtype=dtype, seed=seed)

    window = {"grid": GRID, "window_size": 3}
    conv = by(ops.conv_glu, grid=GRID)
    qk, av = by(ops.window_qk, **window), by(ops.window_av, **window)
    tokens, pooled = (LENGTH, HEADS, DIM), (POOL_LENGTH, HEADS, DIM)

    def attend(backend: str) -> Callable[..., Tensor]:
        def call(q, k, v, k_pool, v_pool, scale, embedding, local_bias, bias, cells, cell_bias):
            return ops.aggregated_attention(
                q, k, v, k_pool, v_pool, **window, pool_grid=POOL, scale=scale,
                query_embedding=embedding, local_bias=local_bias, pool_bias=bias, tokens=cells,
                token_bias=cell_bias, backend=backend,
            )  # fmt: skip

        return call

    attention = [
        *(act(*tokens, seed=seed) for seed in (1, 2, 3)), act(*pooled, seed=4),
        act(*pooled, seed=5), par(HEADS, seed=6).abs() + 0.5, par(HEADS, DIM, seed=7),
        par(HEADS, 9, seed=8), par(HEADS, LENGTH, POOL_LENGTH, seed=9),
        par(HEADS, DIM, 9, seed=10), par(HEADS, 9, seed=11),
    ]  # fmt: skip
    glu = [act(LENGTH, 2 * CHANNELS, seed=1), par(CHANNELS, 1, 3, 3, seed=2), par(CHANNELS, seed=3)]
    head_major = (HEADS, LENGTH, DIM)
    return {
        "conv_glu": (glu, conv, conv("torch")),
        "gelu_pool": (
            [act(LENGTH, CHANNELS, seed=1)],
            by(ops.gelu_pool, grid=GRID, pool_grid=POOL),
            adaptive_pool,
        ),
        "window_qk": ([act(*head_major, seed=1), act(*head_major, seed=2)], qk, qk("torch")),
        "window_av": (
            [act(HEADS, LENGTH, 9, seed=1), act(*head_major, seed=2)],
            av,
            av("torch"),
        ),
        "aggregated_attention": (attention, attend, attend("torch")),
    }


ACTIVATIONS = {
    "conv_glu": 1, "gelu_pool": 1, "window_qk": 2, "window_av": 2, "aggregated_attention": 5,
}  # fmt: skip


def poisoned(name: str, tensors: list[Tensor], position: int, value: float) -> list[Tensor]:
    """Return the tensors with `value` in the middle of the second image of one of them."""
    changed = [tensor.clone() for tensor in tensors]
    image = changed[position][1]
    token = MIDDLE if LENGTH in image.shape else POOL_LENGTH // 2
    if name.startswith("window"):
        image[1, token, 5] = value
    elif name == "conv_glu":
        image[token, 3] = value  # of the convolution's half
        image[token, CHANNELS + 7] = value  # of the gate's
    else:
        image[token].flatten()[5] = value
    return changed


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_non_finite_activations(backend: str, name: str, dtype: torch.dtype, value: float) -> None:
    tensors, ours, composition = cases(dtype)[name]
    clean = run(ours(backend), tensors)
    for position in range(ACTIVATIONS[name]):
        changed = poisoned(name, tensors, position, value)
        results = run(ours(backend), changed)
        expected = run(composition, [tensor.double() for tensor in changed])
        assert not expected[0].isfinite().all()
        assert torch.equal(kinds(results[0]), kinds(expected[0])), (name, position)
        for result, right in zip(results[1:], expected[1:], strict=True):
            if name != "aggregated_attention":
                assert torch.equal(kinds(result), kinds(right)), (name, position)
            # In attention an infinity minus an infinity may come before, or after, a sum.
            assert not (right.isfinite() < result.isfinite()).any(), (name, position)
            if result.shape[0] == BATCH and name == "aggregated_attention":
                assert torch.equal(right.isfinite(), result.isfinite()), (name, position)
        for result, same in zip(results, clean, strict=True):
            if result.shape[0] == BATCH:  # other images notice nothing
                torch.testing.assert_close(result[::2], same[::2], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_infinite_logits(backend: str, dtype: torch.dtype) -> None:
    """A query that sees +inf, nothing but -inf, or NaN gets NaN, forward and backward; another one
    with some logits of -inf none."""
    tensors, ours, composition = cases(dtype)["aggregated_attention"]
    local_bias, bias = torch.zeros_like(tensors[7]), torch.zeros_like(tensors[8])
    bias[0, 0, 1] = INF
    bias[0, 3, 2] = NAN
    bias[0, 4, :3] = -INF
    bias[1] = -INF
    local_bias[1] = -INF
    changed = [*tensors[:7], local_bias, bias, *tensors[9:]]
    out, d_q, *_ = run(ours(backend), changed)
    right, d_right, *_ = run(composition, [tensor.double() for tensor in changed])
    assert torch.equal(kinds(out), kinds(right))
    assert torch.equal(d_q.isfinite(), d_right.isfinite())
    broken = ~out.isfinite().all(-1)[0]
    assert broken[:, 1].all()
    assert broken[:, 0].nonzero().flatten().tolist() == [0, 3]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_non_finite_mlp_of_the_position_bias(backend, dtype: torch.dtype, value: float) -> None:
    mlp = [parameter(*shape, dtype=dtype, seed=1) for shape in ((12, 2), (12,), (HEADS, 12))]
    mlp.append(parameter(HEADS, dtype=dtype, seed=2))

    def table(name: str) -> Callable[..., Tensor]:
        sizes = {"grid": GRID, "pool_grid": POOL, "pretrain_grid": GRID, "backend": name}
        return lambda *parameters: ops.position_bias(*parameters, **sizes).table

    for position in range(4):
        changed = [tensor.clone() for tensor in mlp]
        changed[position].view(-1)[-1] = value
        results = run(table(backend), changed)
        expected = run(table("torch"), [tensor.double() for tensor in changed])
        assert torch.equal(kinds(results[0]), kinds(expected[0]))
        for result, right in zip(results[1:], expected[1:], strict=True):
            assert not (right.isfinite() < result.isfinite()).any()


def packed(columns: int, depth: int, dtype: torch.dtype, seed: int) -> fused_blocks.PackedWeight:
    return fused_blocks.pack_weight(parameter(columns, depth, dtype=dtype, seed=seed), dtype)


@pytest.mark.parametrize("level", _cpp.available_cpu_levels())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_branches_keep_it_in_its_image(level: str, dtype: torch.dtype, value: float) -> None:
    width, hidden = HEADS * DIM, 2 * CHANNELS
    norm = fused_blocks.NormWeights(
        parameter(width, dtype=dtype, seed=1), parameter(width, dtype=dtype, seed=2), 1e-6
    )
    glu = fused_blocks.ConvGluResidualWeights(
        norm, packed(hidden, width, dtype, 3), packed(hidden, width, dtype, 4), None,
        parameter(hidden, 1, 3, 3, dtype=dtype, seed=5), None, packed(width, hidden, dtype, 6),
        None,
    )  # fmt: skip
    attention = fused_blocks.AttentionResidualWeights(
        norm, packed(4 * width, width, dtype, 7), None, norm, packed(2 * width, width, dtype, 8),
        packed(width, width, dtype, 9), None, torch.ones_like(norm.weight[:HEADS]),
    )  # fmt: skip
    embed = fused_blocks.PatchEmbedWeights(
        fused_blocks.pack_convolution(
            parameter(width, 3, 3, 3, dtype=dtype, seed=10), dtype, channels_last=False
        ),
        False, None, norm,
    )  # fmt: skip
    head = random(5, width, dtype=dtype, seed=13)
    tokens = random(BATCH, LENGTH, width, dtype=dtype, seed=11)
    image = random(BATCH, 3, 10, 18, dtype=dtype, seed=12)
    calls: list[tuple[Callable[[Tensor], Tensor], Tensor]] = [
        (lambda x: fused_blocks.conv_glu_residual(x, glu, grid=GRID), tokens),
        (
            lambda x: fused_blocks.attention_residual(
                x, attention, grid=GRID, pool_grid=POOL, window_size=3
            ),
            tokens,
        ),
        (lambda x: fused_blocks.patch_embed(x, embed, kernel_size=3, stride=2), image),
        (lambda x: fused_blocks.token_norm(x, norm), tokens),
        (lambda x: fused_blocks.pooled_linear(x, head), tokens),
    ]
    _cpp.set_cpu_level(level)
    try:
        for call, x in calls:
            changed = x.clone()
            changed[1, x.shape[1] // 2].flatten()[7] = value
            out, clean = call(changed), call(x)
            torch.testing.assert_close(out[::2], clean[::2], rtol=0, atol=0)
            touched = ~out[1].isfinite().all(-1)  # tokens, whole ones: each is normalised
            assert touched.any()
            assert not (touched & out[1].isfinite().any(-1)).any()
    finally:
        _cpp.set_cpu_level(None)
