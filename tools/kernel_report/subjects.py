"""The calls that the report is about: TransNeXt-Tiny's stages at 224x224 and at 800x1280.

With the number of operations that docs/gpu.md derives for each; minima of bytes follow from the
tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import transnext_ops as ops
from benchmarks.cuda.cases import GLOBAL_STAGE, sizes_of
from benchmarks.shapes.cases import Case
from benchmarks.shapes.sizes import BIAS_HIDDEN, HEAD_DIM, WINDOW_SIZE, Shapes
from transnext_ops.backends import cpp_backend
from transnext_ops.backends.matmul_precision import tf32

SIZES = {"224": (224, 224), "800x1280": (800, 1280)}  # image heights and widths

_CELLS = WINDOW_SIZE**2
_BATCH = 64  # images that fill every GPU


@dataclass(frozen=True)
class Subject:
    """A call of an operator of the compiled library.

    Attributes
    ----------
    size : str
        A key of ``SIZES``.
    call : callable
        Makes the tensors, activations of the storage type given, and calls the operator.
    operations : float
        That the call's results take as docs/gpu.md derives it, two for each multiply-add.
    outputs : int
        Elements of the operator's result, forward; what counts are stated for.
    dtypes : tuple of torch.dtype
        Storage types that it is called with.
    images : int
        Of the batch that it is called with, where plans for one image alone are other ones.
        Everything else is stated for one of them.
    """

    operator: str
    size: str
    call: Callable[[torch.dtype], object]
    operations: float
    outputs: int
    dtypes: tuple[torch.dtype, ...] = cpp_backend.CUDA_DTYPES
    images: int = 1

    @property
    def name(self) -> str:
        """The operator and the size."""
        return f"{self.operator} {self.size}"


@dataclass(frozen=True)
class _Stage(Shapes):
    """Sizes of one stage, for one image."""

    size: str  # a key of SIZES


def _stage(size: str, operator: str, stage: int) -> _Stage:
    case = Case("operators", operator, "forward", 1, SIZES[size], (), stage=stage)
    return _Stage(**vars(sizes_of(case)), size=size)


def subjects(size: str) -> Iterator[Subject]:
    """Yield the report's calls at one image size, forward and backward of every operator."""
    first = _stage(size, "aggregated_attention", 0)
    last = _stage(size, "global_attention", GLOBAL_STAGE)
    yield from _attention(first, "aggregated_attention", WINDOW_SIZE)
    yield from _attention(last, "global_attention", 0)
    yield from _window_products(first)
    yield from _position_bias(first)
    yield from _conv_glu(first)
    yield from _gelu_pool(first)
    yield from _add_layer_norm(first)
    yield from _deformable_attention(size)


def _normal(*shape: int, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator) * spread


def _mlp(s: _Stage) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        _normal(BIAS_HIDDEN, 2),
        _normal(BIAS_HIDDEN),
        _normal(s.heads, BIAS_HIDDEN, spread=0.05),
        _normal(s.heads),
    )


# Operators


def _attention(s: _Stage, name: str, window: int) -> Iterator[Subject]:
    heads, cells = (s.heads, HEAD_DIM), window**2
    sizes = (s.grid, s.pool_grid, window)

    def inputs(dtype: torch.dtype) -> tuple[Any, ...]:
        # q, k and v are slices of one projection, as in a network.
        q, k, v = _normal(1, s.length, 3, *heads).to(dtype).unbind(2)
        k_pool, v_pool = _normal(1, s.pool_length, 2, *heads).to(dtype).unbind(2)
        bias = ops.position_bias(
            *_mlp(s), grid=s.grid, pool_grid=s.pool_grid, pretrain_grid=s.grid, backend="torch"
        )
        scale, embedding = _normal(s.heads).abs() + 1, _normal(*heads, spread=0.02)
        maps = (bias.table, bias.row_map, bias.col_map, None)
        if window == 0:
            q = q.contiguous()
            return (q, None, None, k_pool, v_pool, scale, embedding, None, *maps, None, None)
        local = (_normal(s.heads, cells), _normal(*heads, cells, spread=0.02))
        token_bias = _normal(s.heads, cells)
        return (q, k, v, k_pool, v_pool, scale, embedding, local[0], *maps, local[1], token_bias)

    def forward(dtype: torch.dtype, allow_tf32: bool = False) -> object:
        arguments: Any = (*inputs(dtype), *sizes)
        with tf32(allow_tf32):
            return cpp_backend.aggregated_attention(*arguments)

    def forward_on_tf32(dtype: torch.dtype) -> object:
        return forward(dtype, allow_tf32=True)

    def backward(dtype: torch.dtype) -> object:
        given = inputs(dtype)
        out = _normal(1, s.length, *heads).to(dtype)
        # Large enough that no probability exceeds one.
        log_sum_exp = _normal(1, s.length, s.heads).abs() + 40
        tokens = (out.clone(), out, log_sum_exp, *given[:5])
        batch = [None if x is None else x.expand(_BATCH, *x.shape[1:]) for x in tokens]
        arguments: Any = (*batch, *given[5:], *sizes, [True] * 11)
        return cpp_backend.aggregated_attention_backward(*arguments)

    queries = s.length * s.heads
    keys = cells + s.pool_length
    plain = 6.0 * HEAD_DIM * cells + 10 * HEAD_DIM + keys
    plain_backward = 14.0 * HEAD_DIM * cells + 20 * HEAD_DIM + keys
    products = 4.0 * HEAD_DIM * s.pool_length
    outputs = s.length * s.width
    yield Subject(name, s.size, forward, queries * (products + plain), outputs)
    yield Subject(
        f"{name} TF32", s.size, forward_on_tf32, queries * (products + plain), outputs,
        (torch.float32,),
    )  # fmt: skip
    operations = queries * (2.5 * products + plain_backward)
    yield Subject(f"{name}_backward", s.size, backward, operations, outputs, images=_BATCH)


def _window_products(s: _Stage) -> Iterator[Subject]:
    shape, attn_shape = (1, s.heads, s.length, HEAD_DIM), (1, s.heads, s.length, _CELLS)
    sizes = (s.grid, WINDOW_SIZE)
    operations = 2.0 * s.length * s.width * _CELLS

    def tensors(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        return _normal(*shape).to(dtype), _normal(*shape).to(dtype), _normal(*attn_shape).to(dtype)

    def qk(dtype: torch.dtype) -> object:
        q, k, _ = tensors(dtype)
        return cpp_backend.window_qk(q, k, _normal(s.heads, _CELLS), *sizes)

    def qk_backward(dtype: torch.dtype) -> object:
        q, k, attn = tensors(dtype)
        return cpp_backend.window_qk_backward(attn, q, k, *sizes, [True] * 3)

    def av(dtype: torch.dtype) -> object:
        v, _, attn = tensors(dtype)
        return cpp_backend.window_av(attn, v, *sizes)

    def av_backward(dtype: torch.dtype) -> object:
        v, d_out, attn = tensors(dtype)
        return cpp_backend.window_av_backward(d_out, attn, v, *sizes, [True] * 2)

    logits = s.length * s.heads * _CELLS
    yield Subject("window_qk", s.size, qk, operations, logits)
    yield Subject("window_qk_backward", s.size, qk_backward, 2 * operations, logits)
    yield Subject("window_av", s.size, av, operations, s.length * s.width)
    yield Subject("window_av_backward", s.size, av_backward, 2 * operations, s.length * s.width)


def _position_bias(s: _Stage) -> Iterator[Subject]:
    rows, columns = (
        side + side // pooled * (pooled - 1)
        for side, pooled in zip(s.grid, s.pool_grid, strict=True)
    )
    entries = rows * columns

    def forward(dtype: torch.dtype) -> object:
        return cpp_backend.position_bias_table(_normal(rows), _normal(columns), *_mlp(s))

    def backward(dtype: torch.dtype) -> object:
        d_table = _normal(s.heads, rows, columns)
        coordinates = _normal(rows), _normal(columns)
        return cpp_backend.position_bias_table_backward(d_table, *coordinates, *_mlp(s), [True] * 4)

    # Whatever the activations are stored as, the table and its parameters are float32.
    once = (torch.float32,)
    outputs = entries * s.heads
    operations = entries * BIAS_HIDDEN * (3.0 + 2 * s.heads)
    yield Subject("position_bias_table", s.size, forward, operations, outputs, once)
    operations = entries * BIAS_HIDDEN * (6.0 + 4 * s.heads)
    yield Subject("position_bias_table_backward", s.size, backward, operations, outputs, once)


def _conv_glu(s: _Stage) -> Iterator[Subject]:
    outputs = s.length * s.hidden

    def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = _normal(1, s.length, 2 * s.hidden).to(dtype)
        return x, _normal(s.hidden, 1, 3, 3), _normal(s.hidden), _normal(2 * s.hidden)

    def forward(dtype: torch.dtype) -> object:
        return cpp_backend.conv_glu(*inputs(dtype), s.grid)

    def backward(dtype: torch.dtype) -> object:
        d_out = _normal(1, s.length, s.hidden).to(dtype)
        return cpp_backend.conv_glu_backward(d_out, *inputs(dtype), s.grid, [True] * 4)

    yield Subject("conv_glu", s.size, forward, 40.0 * outputs, outputs)
    yield Subject("conv_glu_backward", s.size, backward, 100.0 * outputs, outputs)


def _gelu_pool(s: _Stage) -> Iterator[Subject]:
    outputs = s.pool_length * s.width

    def inputs(dtype: torch.dtype) -> Tensor:
        return _normal(1, s.length, s.width).to(dtype)

    def forward(dtype: torch.dtype) -> object:
        return cpp_backend.gelu_pool(inputs(dtype), s.grid, s.pool_grid)

    def backward(dtype: torch.dtype) -> object:
        d_out = _normal(1, s.pool_length, s.width).to(dtype)
        return cpp_backend.gelu_pool_backward(d_out, inputs(dtype), s.grid, s.pool_grid)

    elements = s.length * s.width
    yield Subject("gelu_pool", s.size, forward, 20.0 * elements, outputs)
    yield Subject("gelu_pool_backward", s.size, backward, 29.0 * elements, outputs)


def _add_layer_norm(s: _Stage) -> Iterator[Subject]:
    outputs = s.length * s.width
    parameters = _normal(s.width), _normal(s.width)

    def tokens(dtype: torch.dtype) -> Tensor:
        return _normal(1, s.length, s.width).to(dtype)

    def forward(dtype: torch.dtype) -> object:
        x = tokens(torch.float32)
        return cpp_backend.add_layer_norm(tokens(dtype), x, *parameters, None, parameters[0], 1e-6)

    def backward(dtype: torch.dtype) -> object:
        x = tokens(torch.float32)
        return cpp_backend.add_layer_norm_backward(
            tokens(dtype), x, x, parameters[0], None, 1e-6, [True] * 5
        )

    yield Subject("add_layer_norm", s.size, forward, 10.0 * outputs, outputs)
    yield Subject("add_layer_norm_backward", s.size, backward, 20.0 * outputs, outputs)


def _deformable_attention(size: str) -> Iterator[Subject]:
    """Yield the self-attention of DINO 4scale's encoder: every cell of four levels is a query."""
    height, width = SIZES[size]
    shapes = [(-(-height // stride), -(-width // stride)) for stride in (8, 16, 32, 64)]
    cells = sum(rows * columns for rows, columns in shapes)
    heads, channels, samples = 8, 32, 16
    sides = [side for shape in shapes for side in shape]
    centres = [
        torch.cartesian_prod(
            (torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns
        )
        for rows, columns in shapes
    ]
    reference = torch.cat(centres).flip(-1)[None, :, None].expand(-1, -1, len(shapes), -1)

    def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        of_head = (1, cells, heads, samples)
        return (
            _normal(1, cells, heads, channels).to(dtype),
            _normal(*of_head, 2, spread=2.0).to(dtype),
            _normal(*of_head).to(dtype),
            reference,
        )

    def forward(dtype: torch.dtype) -> object:
        return cpp_backend.deformable_attention(*inputs(dtype), sides)

    def backward(dtype: torch.dtype) -> object:
        d_out = _normal(1, cells, heads, channels).to(dtype)
        needs = [True, True, True, False]
        return cpp_backend.deformable_attention_backward(d_out, *inputs(dtype), sides, needs)

    outputs = cells * heads * channels
    operations = 8.0 * samples * outputs  # four cells of a sample
    yield Subject("deformable_attention", size, forward, operations, outputs)
    yield Subject("deformable_attention_backward", size, backward, 2 * operations, outputs)
