"""The 16-bit copies of blocks' weights that mixed precision multiplies by, made all at once.

Autocast casts one weight after the other: on a GPU a launch for each and, in training, another for
its gradient. Here a call for all blocks of a stage casts all their weights in one launch, and one
more casts all gradients back. What is multiplied by the same tokens lies side by side: one product
for queries, keys, values and the input of pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .attention import GlobalAttention
from .block import Block

__all__ = ["CastWeights", "cast_weights"]


class CastWeights(NamedTuple):
    """A block's weights, cast. Those of pooling are None in global attention.

    Attributes
    ----------
    projections, projections_bias : Tensor
        ``[4C, C]`` of queries, keys, values and the input of pooling, or ``[3C, C]`` without it;
        and their biases, if any.
    pool_norm : tuple of Tensor, optional
        Weight and bias of the norm of pooled features.
    pool_projections, pool_projections_bias : Tensor, optional
        ``[2C, C]`` of pooled keys and values, the second and third part of `projections`.
    out, fc1, fc2 : tuple of Tensor
        Weight and bias of the attention's output, and of the channel mixer's layers.
    """

    projections: Tensor
    projections_bias: Tensor | None
    out: tuple[Tensor, Tensor]
    fc1: tuple[Tensor, Tensor]
    fc2: tuple[Tensor, Tensor]
    pool_norm: tuple[Tensor, Tensor] | None = None
    pool_projections: Tensor | None = None
    pool_projections_bias: Tensor | None = None


def cast_weights(blocks: Sequence[Block], dtype: torch.dtype) -> list[CastWeights]:
    """Return the weights of plain blocks in a 16-bit type.

    Those of frozen blocks are cast once, and kept.
    """
    if all(block.derived.frozen for block in blocks) and not torch.is_grad_enabled():
        return [_kept(block, dtype) for block in blocks]
    return _cast(blocks, dtype)


def _kept(block: Block, dtype: torch.dtype) -> CastWeights:
    found = (tensor for part in _parts(block) for tensor in part)
    weights = [tensor for tensor in found if isinstance(tensor, nn.Parameter)]  # not zeros
    return block.derived.get(weights, ("cast", dtype), lambda: _cast([block], dtype)[0])


def _cast(blocks: Sequence[Block], dtype: torch.dtype) -> list[CastWeights]:
    parts = [_parts(block) for block in blocks]
    sizes = [[len(part) for part in of_block] for of_block in parts]
    flat = [tensor for of_block in parts for part in of_block for tensor in part]
    cast = iter(_CastTogether.apply(dtype, [n for of_block in sizes for n in of_block], *flat))
    return [
        _collected(block, [next(cast) if n else None for n in of_block])
        for block, of_block in zip(blocks, sizes, strict=True)
    ]


def _parts(block: Block) -> list[list[Tensor]]:
    """Return what is cast of a block: lists of parameters that will lie one after the other."""
    attn, mlp = block.attn, block.mlp
    layers: list[Any] = [attn.proj, mlp.fc1, mlp.fc2]
    parts = [[tensor] for layer in layers for tensor in (layer.weight, layer.bias)]
    if isinstance(attn, GlobalAttention):
        return [[attn.qkv.weight], _biases([attn.qkv]), *parts]
    together: list[nn.Linear | nn.Conv2d] = [attn.q, attn.kv, attn.sr]
    return [
        [layer.weight for layer in together],
        _biases(together),
        *parts,
        [attn.norm.weight],
        [attn.norm.bias],
        [attn.kv.weight],
        _biases([attn.kv]),
    ]


def _biases(layers: Sequence[nn.Linear | nn.Conv2d]) -> list[Tensor]:
    """Return the layers' biases, zeros for those without, or none at all."""
    if all(layer.bias is None for layer in layers):
        return []
    return [
        layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
        for layer in layers
    ]


def _collected(block: Block, cast: list[Any]) -> CastWeights:
    projections, projections_bias, out, out_bias, fc1, fc1_bias, fc2, fc2_bias, *pooling = cast
    found = CastWeights(
        projections, projections_bias, (out, out_bias), (fc1, fc1_bias), (fc2, fc2_bias)
    )
    if isinstance(block.attn, GlobalAttention):
        return found
    norm, norm_bias, pool_projections, pool_projections_bias = pooling
    return found._replace(
        pool_norm=(norm, norm_bias),
        pool_projections=pool_projections,
        pool_projections_bias=pool_projections_bias,
    )


class _CastTogether(torch.autograd.Function):
    """Casts tensors with one call, and their gradients back with another.

    Takes the type, how many consecutive tensors each result consists of (for 0 there is none), and
    the tensors.
    """

    @staticmethod
    def forward(
        ctx: Any, dtype: torch.dtype, counts: list[int], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the results."""
        results: list[Tensor] = []
        slots: list[Tensor] = []
        first = 0
        for count in filter(None, counts):
            part = tensors[first : first + count]
            rows = [len(tensor) for tensor in part]
            result = part[0].new_empty((sum(rows), *part[0].shape[1:]), dtype=dtype)
            results.append(result)
            # A convolution of one pixel is a Linear.
            slots += (s.view(t.shape) for s, t in zip(result.split(rows), part, strict=True))
            first += count
        torch._foreach_copy_(slots, tensors)
        ctx.counts, ctx.like = counts, [(t.dtype, t.shape) for t in tensors]
        ctx.set_materialize_grads(False)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        """Return the gradients of the tensors."""
        like = iter(ctx.like)
        found: list[Tensor | None] = []
        sources: list[Tensor] = []
        for count, gradient in zip(filter(None, ctx.counts), gradients, strict=True):
            part = [next(like) for _ in range(count)]
            if gradient is None:
                found += [None] * count
                continue
            found += [gradient.new_empty(shape, dtype=dtype) for dtype, shape in part]
            rows = gradient.split([shape[0] for _, shape in part])
            sources += (row.view(shape) for row, (_, shape) in zip(rows, part, strict=True))
        torch._foreach_copy_([each for each in found if each is not None], sources)
        return None, None, *found
