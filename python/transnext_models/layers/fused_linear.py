"""A Linear on x86 processors with AMX, in training: PyTorch's products where those are fastest.

``aten::addmm`` writes the bias to the whole output before the product; oneDNN's own entry, to which
``torch.compile`` lowers Linears, adds it in the product's epilogue. In bfloat16 the gradients of
weight and bias are one product on the tile unit (:mod:`transnext_ops.weight_gradient`), summed and
kept in float32 where the weight is. docs/performance.md has the measurements.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from transnext_ops.weight_gradient import has_tiles, weight_gradient

__all__ = ["fused_linear", "has_fused_linear"]


def has_fused_linear(dtype: torch.dtype) -> bool:
    """Whether this PyTorch has :func:`fused_linear` for products of `dtype`."""
    return dtype in _types()


@functools.cache
def _types() -> tuple[torch.dtype, ...]:
    try:
        _ = torch.ops.mkldnn._linear_pointwise
        has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):  # a PyTorch without oneDNN
        return ()
    return (torch.float32, torch.bfloat16) if has_bfloat16 else (torch.float32,)


def fused_linear(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return ``x [..., depth]`` by ``weight [columns, depth]`` and ``bias``, products in `dtype`.

    The result is in `dtype` too.
    """
    return _FusedLinear.apply(x.to(dtype), weight, bias)


class _FusedLinear(torch.autograd.Function):
    """The products are in x's type."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the result."""
        cast = weight.to(x.dtype)
        ctx.bias_type = None if bias is None else bias.dtype
        ctx.save_for_backward(x, weight, cast)
        cast_bias = None if bias is None else bias.to(x.dtype)
        return torch.ops.mkldnn._linear_pointwise(x, cast, cast_bias, "none", [], "")

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients; differentiable ones, of PyTorch's operators, if these are asked."""
        x, weight, cast = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        differentiable = torch.is_grad_enabled()
        if differentiable:
            cast = weight.to(x.dtype)
        d_x = d_out.matmul(cast) if wants_x else None
        rows, inputs = d_out.flatten(0, -2), x.flatten(0, -2)
        if not differentiable and wants_weight and x.dtype == torch.bfloat16 and has_tiles():
            d_weight, d_bias = weight_gradient(rows, inputs, weight.dtype, bias=wants_bias)
            return d_x, d_weight, None if d_bias is None else d_bias.to(ctx.bias_type)
        return (
            d_x,
            rows.t().mm(inputs).to(weight.dtype) if wants_weight else None,
            rows.sum(0).to(ctx.bias_type) if wants_bias else None,
        )
