"""A Linear on the CPU with its bias in the product's epilogue, where that is the fastest way.

``aten::addmm`` writes the bias to the whole output before the product. oneDNN's own entry, to which
``torch.compile`` lowers Linears, adds it afterwards. In bfloat16 on a tile unit the gradients of
weight and bias are one product (:mod:`transnext_ops.linear_products`), summed and kept in float32
where the weight is. PyTorch has no products of bfloat16 for x86 processors without AVX-512, and
multiplies element by element: all three products are :mod:`transnext_ops.linear_products` there.
docs/performance.md has the measurements.
"""

from __future__ import annotations

import functools
import platform
from typing import Any

import torch
from torch import Tensor

from transnext_ops import linear_products
from transnext_ops.linear_products import has_linear, has_tiles, weight_gradient

__all__ = ["fused_linear", "has_fused_linear", "only_ours", "pytorch_multiplies"]


def has_fused_linear(dtype: torch.dtype) -> bool:
    """Whether there is a :func:`fused_linear` for products of `dtype` here."""
    return dtype in _onednn_types() or only_ours(dtype)


def only_ours(dtype: torch.dtype) -> bool:
    """Whether this package multiplies `dtype` on this processor, and PyTorch does not."""
    return not pytorch_multiplies(dtype) and has_linear()


def pytorch_multiplies(dtype: torch.dtype) -> bool:
    """Whether PyTorch has kernels for products of `dtype` on this processor.

    Without them x86 processors multiply bfloat16 element by element, on one thread.
    """
    return (
        dtype != torch.bfloat16
        or dtype in _onednn_types()
        or platform.machine() not in ("x86_64", "AMD64")
    )


@functools.cache
def _onednn_types() -> tuple[torch.dtype, ...]:
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
        ctx.bias_type = None if bias is None else bias.dtype
        if only_ours(x.dtype):  # rounds the weight where it lays it out
            ctx.save_for_backward(x, weight, weight)
            return _of_rows(x, weight, bias)
        cast = weight.to(x.dtype)
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
        ours = only_ours(x.dtype) and not differentiable
        d_x = None
        if wants_x:
            d_x = _of_rows(d_out, cast.t(), None) if ours else d_out.matmul(cast)
        rows, inputs = d_out.flatten(0, -2), x.flatten(0, -2)
        on_tiles = x.dtype == torch.bfloat16 and has_tiles() and not differentiable
        if wants_weight and (ours or on_tiles):
            d_weight, d_bias = weight_gradient(rows, inputs, weight.dtype, bias=wants_bias)
            return d_x, d_weight, None if d_bias is None else d_bias.to(ctx.bias_type)
        return (
            d_x,
            rows.t().mm(inputs).to(weight.dtype) if wants_weight else None,
            rows.sum(0).to(ctx.bias_type) if wants_bias else None,
        )


def _of_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return our product of ``x [..., depth]`` by ``weight [columns, depth]``."""
    product = linear_products.linear(x.flatten(0, -2), weight, bias)
    return product.view(*x.shape[:-1], weight.shape[0])
