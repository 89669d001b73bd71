r"""The gate of the Convolutional GLU (paper, section 3.2), on tokens.

x + x_bias is [a | g], two halves of `hidden` channels each. Per channel c and grid position
(i, j)::

    z[i, j]   = sum_u sum_v W[c, u, v] a[i + u - 1, j + v - 1] + bias[c]     a = 0 outside the grid
    out[i, j] = GELU(z[i, j]) g[i, j]
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from transnext_reference.arrays import BATCH, Array, Grid, cell_count, float64
from transnext_reference.arrays import optional_float64 as optional
from transnext_reference.numerics import gelu, gelu_and_slope


def depthwise_conv3x3(image: Array, weight: Array) -> Array:
    """Depthwise 3x3 correlation with zero padding 1.

    Parameters
    ----------
    image
        ``[B, H, W, C]``.
    weight
        ``[C, 1, 3, 3]``.

    Returns
    -------
    numpy.ndarray
        ``[B, H, W, C]``.
    """
    _, height, width, _ = image.shape
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    result = np.zeros(image.shape)
    for u in range(3):
        for v in range(3):
            result += weight[:, 0, u, v] * padded[:, u : u + height, v : v + width]
    return result


def depthwise_conv3x3_backward(d_result: Array, image: Array, weight: Array) -> tuple[Array, Array]:
    r"""Gradients of `depthwise_conv3x3` by image ``[B, H, W, C]`` and weight ``[C, 1, 3, 3]``.

    Each tap (u, v) read the padded image shifted by (u, v); its gradient goes back the same way::

        d_W[c, u, v]              = sum over b, i, j of d_z[i, j] padded[i + u, j + v]
        d_padded[i + u, j + v]   += W[c, u, v] d_z[i, j]

    and the padding's gradient is dropped.
    """
    _, height, width, channels = image.shape
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    d_padded = np.zeros(padded.shape)
    d_weight = np.zeros((channels, 1, 3, 3))
    for u in range(3):
        for v in range(3):
            rows, columns = slice(u, u + height), slice(v, v + width)
            d_weight[:, 0, u, v] = np.sum(d_result * padded[:, rows, columns], axis=(0, 1, 2))
            d_padded[:, rows, columns] += weight[:, 0, u, v] * d_result
    return d_padded[:, 1:-1, 1:-1], d_weight


def _prepare(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    x_bias: ArrayLike | None,
    grid: Grid,
) -> tuple[Array, Array, Array, Array | None]:
    """Check the arguments; return a and g as images ``[B, H, W, hidden]``, weight, bias."""
    weight = float64("weight", weight, None, 1, 3, 3)
    hidden = weight.shape[0]
    x = float64("x", x, BATCH, cell_count("grid", grid), 2 * hidden)
    bias = optional("bias", bias, hidden)
    x_bias = optional("x_bias", x_bias, 2 * hidden)
    if x_bias is not None:
        x = x + x_bias
    image = x.reshape(x.shape[0], *grid, 2 * hidden)
    return image[..., :hidden], image[..., hidden:], weight, bias


def conv_glu(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    x_bias: ArrayLike | None = None,
    *,
    grid: Grid,
) -> Array:
    """GELU(depthwise 3x3 convolution of the first half of x + x_bias) times the second half.

    Parameters
    ----------
    x
        Tokens ``[B, N, 2 * hidden]``.
    weight
        ``[hidden, 1, 3, 3]``.
    bias
        ``[hidden]``, or None for zero.
    x_bias
        ``[2 * hidden]``, or None for zero.
    grid
        ``(H, W)``, N = H W.

    Returns
    -------
    numpy.ndarray
        ``[B, N, hidden]``.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    a, gate, weight, bias = _prepare(x, weight, bias, x_bias, grid)
    z = depthwise_conv3x3(a, weight)
    if bias is not None:
        z = z + bias
    batch, height, width, hidden = z.shape
    return (gelu(z) * gate).reshape(batch, height * width, hidden)


def conv_glu_backward(
    d_out: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    x_bias: ArrayLike | None = None,
    *,
    grid: Grid,
) -> dict[str, Array]:
    r"""Gradients of `conv_glu`.

    ::

        d_g = d_out GELU(z)
        d_z = d_out g GELU'(z),      d_bias[c] = sum over b, i, j of d_z
        d_a, d_W from d_z by `depthwise_conv3x3_backward`,      d_x = [d_a | d_g]
        d_x_bias = sum over b, n of d_x

    Parameters
    ----------
    d_out
        ``[B, N, hidden]``.
    x, weight, bias, x_bias, grid
        As in `conv_glu`.

    Returns
    -------
    dict
        Gradients of ``x``, ``weight`` and, if they were given, ``bias`` and ``x_bias``.
    """
    a, gate, weight, bias = _prepare(x, weight, bias, x_bias, grid)
    batch, height, width, hidden = a.shape
    d_image = float64("d_out", d_out, batch, height * width, hidden).reshape(a.shape)
    z = depthwise_conv3x3(a, weight)
    if bias is not None:
        z = z + bias
    activated, slope = gelu_and_slope(z)
    d_z = d_image * gate * slope
    d_a, d_weight = depthwise_conv3x3_backward(d_z, a, weight)
    d_x = np.concatenate([d_a, d_image * activated], axis=-1)
    gradients = {"x": d_x.reshape(batch, height * width, 2 * hidden), "weight": d_weight}
    if bias is not None:
        gradients["bias"] = d_z.sum(axis=(0, 1, 2))
    if x_bias is not None:
        gradients["x_bias"] = d_x.sum(axis=(0, 1, 2))
    return gradients
