r"""A residual sum and its LayerNorm, on tokens.

    total  = x + branch_scale (branch + branch_bias)
    normed = xhat weight + bias,    xhat = (total - mean) / sqrt(variance + epsilon)

with mean and variance over the channels of a token. With g = d_normed weight, the gradient that
reaches the sum through the norm is (g - mean(g) - xhat mean(g xhat)) / sqrt(variance + epsilon): a
norm does not change with a constant added to all channels, nor, but for epsilon, with their scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from transnext_reference.arrays import BATCH, Array, float64
from transnext_reference.numerics import layer_norm


def add_layer_norm(
    x: ArrayLike,
    branch: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike,
    branch_scale: ArrayLike | None = None,
    branch_bias: ArrayLike | None = None,
    *,
    epsilon: float,
) -> tuple[Array, Array]:
    """Return x + branch_scale (branch + branch_bias), and its LayerNorm.

    Parameters
    ----------
    x, branch
        Tokens ``[B, N, C]``.
    weight, bias
        ``[C]``.
    branch_scale
        ``[B]``, ones if None.
    branch_bias
        ``[C]``, zeros if None.
    epsilon
        Added to the variance.

    Returns
    -------
    total, normed : numpy.ndarray
        ``[B, N, C]`` each.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    x = float64("x", x, BATCH, None, None)
    branch = float64("branch", branch, *x.shape)
    weight = float64("weight", weight, x.shape[2])
    bias = float64("bias", bias, x.shape[2])
    if branch_bias is not None:
        branch = branch + float64("branch_bias", branch_bias, x.shape[2])
    total = x + _scales(branch_scale, len(x)) * branch
    return total, layer_norm(total, weight, bias, epsilon)


def add_layer_norm_backward(
    d_total: ArrayLike | None,
    d_normed: ArrayLike,
    total: ArrayLike,
    weight: ArrayLike,
    branch_scale: ArrayLike | None = None,
    *,
    epsilon: float,
) -> dict[str, Array]:
    r"""Gradients of `add_layer_norm`.

    Parameters
    ----------
    d_total, d_normed
        Gradients of both results ``[B, N, C]``; None for a sum that nothing uses.
    total
        The sum that the forward returned.
    weight, branch_scale, epsilon
        As in `add_layer_norm`.

    Returns
    -------
    dict of numpy.ndarray
        "x", "branch" ``[B, N, C]``, "weight", "bias", "branch_bias" ``[C]``.
    """
    total = float64("total", total, BATCH, None, None)
    d_normed = float64("d_normed", d_normed, *total.shape)
    weight = float64("weight", weight, total.shape[2])
    centred = total - total.mean(axis=-1, keepdims=True)
    inverse = 1.0 / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + epsilon)
    xhat = centred * inverse
    g = d_normed * weight
    means = g.mean(axis=-1, keepdims=True), (g * xhat).mean(axis=-1, keepdims=True)
    d_x = (g - means[0] - xhat * means[1]) * inverse
    if d_total is not None:
        d_x = d_x + float64("d_total", d_total, *total.shape)
    d_branch = d_x * _scales(branch_scale, len(total))
    return {
        "x": d_x,
        "branch": d_branch,
        "weight": (d_normed * xhat).sum(axis=(0, 1)),
        "bias": d_normed.sum(axis=(0, 1)),
        "branch_bias": d_branch.sum(axis=(0, 1)),
    }


def _scales(branch_scale: ArrayLike | None, batch: int) -> Array:
    """Return the factor of each sample, to be broadcast over its tokens."""
    if branch_scale is None:
        return np.ones((batch, 1, 1))
    return float64("branch_scale", branch_scale, batch)[:, None, None]
