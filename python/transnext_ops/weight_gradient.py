"""The gradients of a Linear layer's weight and bias, on the tile unit of processors with AMX."""

from __future__ import annotations

import torch
from torch import Tensor

from transnext_ops.backends import cpp_backend

__all__ = ["has_tiles", "weight_gradient"]


def has_tiles() -> bool:
    """Whether the compiled library multiplies bfloat16 on a tile unit, at the level in force.

    Elsewhere :func:`weight_gradient` gains nothing over PyTorch's products.
    """
    return cpp_backend.unavailable() is None and cpp_backend.has_tiles()


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
