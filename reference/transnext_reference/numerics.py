"""The elementary functions: GELU, vector normalisation, layer norm, softplus, softmax.

Gradients are written ``d_x``: the derivative of a scalar loss by ``x``, of the shape of ``x``.
"""

from __future__ import annotations

import math

import numpy as np

from transnext_reference.arrays import Array

NORMALIZE_EPSILON = 1e-12
"""The smallest length that `normalize` divides by."""

_CELLS_PER_UNIT = 32
_REACH = 9  # Phi(-9) is 1e-19: zero, next to one
_TERMS = 10
_CHUNK = 1 << 14  # elements at a time, so that all intermediate arrays stay in cache


def _taylor_of_normal_cdf() -> list[Array]:
    r"""Taylor coefficients of Phi about every node: for each power k, Phi^(k)(node) / k!.

    Phi itself comes from the C library's ``erfc``; Phi' is the density phi, and phi' = -x phi
    gives the rest by Leibniz' rule: phi^(k + 1) = -(x phi^(k) + k phi^(k - 1)).
    """
    nodes = np.arange(-_REACH * _CELLS_PER_UNIT, _REACH * _CELLS_PER_UNIT + 1) / _CELLS_PER_UNIT
    density = np.exp(-0.5 * np.square(nodes)) / math.sqrt(2 * math.pi)
    derivatives = [
        np.array([0.5 * math.erfc(-node / math.sqrt(2)) for node in nodes]),
        density,
        -nodes * density,
    ]
    for k in range(1, _TERMS - 2):
        derivatives.append(-(nodes * derivatives[k + 1] + k * derivatives[k]))
    return [derivative / math.factorial(k) for k, derivative in enumerate(derivatives)]


_TAYLOR = _taylor_of_normal_cdf()


def normal_cdf(x: Array) -> Array:
    r"""Distribution function of the standard normal, Phi(x) = (1 + erf(x / sqrt 2)) / 2.

    The Taylor series about the nearest node, 1/64 away at most: ten terms leave a remainder below
    1e-21. What remains is rounding: an absolute error of at most 2.3e-16, and a relative one
    below 1e-14 down to x = -8, where ``1 + erf`` would have nothing left. Below -9 it is 0.

    Parameters
    ----------
    x
        float64, any shape.
    """
    flat = x.reshape(-1)
    result = np.empty_like(flat)
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        cell = np.rint(np.clip(chunk, -_REACH, _REACH) * _CELLS_PER_UNIT)
        distance = np.clip(chunk, -_REACH, _REACH) - cell / _CELLS_PER_UNIT
        with np.errstate(invalid="ignore"):  # not-a-number stays so, by way of the distance
            node = cell.astype(np.intp) + _REACH * _CELLS_PER_UNIT
        series = _TAYLOR[-1].take(node, mode="clip")
        for coefficients in _TAYLOR[-2::-1]:
            series *= distance
            series += coefficients.take(node, mode="clip")
        result[start : start + _CHUNK] = np.where(chunk < -_REACH, 0.0, series)
    return result.reshape(x.shape)


def gelu(x: Array) -> Array:
    """Return the exact GELU, x Phi(x): the erf form, not the tanh approximation."""
    return x * normal_cdf(x)


def gelu_and_slope(x: Array) -> tuple[Array, Array]:
    r"""GELU and its derivative.

    The product rule with Phi' = phi, the normal density::

        GELU'(x) = Phi(x) + x phi(x),    phi(x) = exp(-x^2 / 2) / sqrt(2 pi)
    """
    cdf = normal_cdf(x)
    density = np.exp(-0.5 * np.square(x)) / math.sqrt(2 * math.pi)
    return x * cdf, cdf + x * density


def normalize(x: Array) -> Array:
    """Scale the vectors of the last axis to length one: x / max(|x|, 1e-12). Zero stays zero."""
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.maximum(length, NORMALIZE_EPSILON)


def normalize_backward(d_unit: Array, x: Array) -> Array:
    r"""Gradient of `normalize`.

    With u = x / |x|, the differential is du = (dx - u (u . dx)) / |x|: what lies along x changes
    only its length. The map is symmetric, so the gradient is::

        d_x = (d_u - u (u . d_u)) / |x|      where |x| > 1e-12
        d_x =  d_u / 1e-12                   elsewhere: there x -> x / 1e-12 is linear

    Parameters
    ----------
    d_unit
        Gradient by the normalised vectors, ``[..., d]``.
    x
        The vectors before normalisation, ``[..., d]``.
    """
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    unit = normalize(x)
    along = np.sum(unit * d_unit, axis=-1, keepdims=True)
    tangential = d_unit - np.where(length > NORMALIZE_EPSILON, along, 0.0) * unit
    return tangential / np.maximum(length, NORMALIZE_EPSILON)


def layer_norm(x: Array, weight: Array, bias: Array, epsilon: float) -> Array:
    """Layer norm of the last axis, with the biased variance: ``[..., C]`` to ``[..., C]``."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + epsilon) * weight + bias


def softplus(x: Array) -> Array:
    """log(1 + exp(x)), without overflow."""
    return np.logaddexp(0.0, x)


def softmax(logits: Array) -> tuple[Array, Array]:
    r"""Softmax of the last axis, and log sum exp.

    The largest logit is taken out of every exponential, so that none overflows::

        m = max_j l_j,   Z = sum_j exp(l_j - m),   a_j = exp(l_j - m) / Z,   log sum exp = m + log Z

    A logit of -inf gives exactly 0; one finite logit in each row is needed.

    Parameters
    ----------
    logits
        ``[..., K]``, K >= 1.

    Returns
    -------
    probabilities
        ``[..., K]``, rows that sum to one.
    log_sum_exp
        ``[...]``.
    """
    largest = logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(logits - largest)
    total = exponentials.sum(axis=-1, keepdims=True)
    return exponentials / total, (largest + np.log(total))[..., 0]


def softmax_backward(d_probabilities: Array, probabilities: Array) -> Array:
    r"""Gradient of `softmax` by the logits.

    From da_j = a_j (dl_j - sum_i a_i dl_i)::

        d_l_j = a_j (d_a_j - sum_i a_i d_a_i)

    A logit of -inf has a_j = 0 and so gets no gradient.
    """
    expected = np.sum(probabilities * d_probabilities, axis=-1, keepdims=True)
    return probabilities * (d_probabilities - expected)
