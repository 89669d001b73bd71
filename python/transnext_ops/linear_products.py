"""The three products of a Linear layer in training on a CPU: its result and both gradients.

PyTorch's are as fast on most processors. It has none of bfloat16 for x86 processors without
AVX-512, where it multiplies element by element; and the gradients of weight and bias are one
product here, which a tile unit makes worth having.
"""

from __future__ import annotations

import torch
from torch import Tensor

from transnext_ops.backends import cpp_backend
from transnext_ops.fused_blocks.weights import pack_weight

__all__ = ["has_linear", "has_tiles", "linear", "weight_gradient"]


def has_tiles() -> bool:
    """Whether the compiled library multiplies bfloat16 on a tile unit, at the level in force."""
    return cpp_backend.unavailable() is None and cpp_backend.has_tiles()


def has_linear() -> bool:
    """Whether the compiled library is here and has the products of this module."""
    return cpp_backend.unavailable() is None and cpp_backend.has_linear()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias`` in x's dtype, summed in float32 (float64 of float64).

    The gradient of x is the same product: ``linear(d_out, weight.T)``.

    Parameters
    ----------
    x : Tensor [M, depth]
        On the CPU, of any floating-point type and any strides.
    weight : Tensor [columns, depth]
        Likewise. It is rounded to x's dtype, and laid out for the product at every call.
    bias : Tensor [columns], optional

    Returns
    -------
    Tensor [M, columns]
        In x's dtype.

    Raises
    ------
    ValueError, TypeError
        A tensor's shape, dtype or device does not fit the other's; the message names it.
    """
    packed = pack_weight(weight, x.dtype)
    out = x.new_empty((x.shape[0], packed.columns))
    sums = torch.float64 if x.dtype == torch.float64 else torch.float32
    sizes = packed.columns, packed.depth
    cpp_backend.linear(x, packed.data, sizes, None if bias is None else bias.to(sums), out)
    return out


def weight_gradient(
    d_out: Tensor, x: Tensor, dtype: torch.dtype, *, bias: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of the weight and the bias of ``out = x @ weight.T + bias``.

    Both are sums over tokens, of products or of gradients, in float32 from the first token to the
    last (float64 of float64), and rounded once. One pass over the tokens does both.

    Parameters
    ----------
    d_out : Tensor [M, columns]
        The gradient of the result.
    x : Tensor [M, depth]
        In d_out's dtype; on the CPU, both of any strides.
    dtype : torch.dtype
        Of the gradients.
    bias : bool
        Whether there is one.

    Returns
    -------
    d_weight : Tensor [columns, depth]
    d_bias : Tensor [columns], or None without a bias

    Raises
    ------
    ValueError
        A tensor's shape, dtype or device does not fit the other's; the message names it.
    """
    d_weight = d_out.new_empty((d_out.shape[-1], x.shape[-1]), dtype=dtype)
    d_bias = d_out.new_empty(d_out.shape[-1], dtype=dtype) if bias else None
    cpp_backend.weight_gradient(d_out, x, d_weight, d_bias)
    return d_weight, d_bias
