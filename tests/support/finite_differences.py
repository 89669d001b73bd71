"""Hand-derived gradients tested against finite differences: one random direction for each input.

For a function f and random output weights w, the loss is L(x) = sum w f(x). Along a random
direction u, its slope by the fourth-order central difference ::

    L'(0) = (8 (L(h u) - L(-h u)) - (L(2 h u) - L(-2 h u))) / (12 h)

must equal the inner product of u with the gradient under test. As every component of u is random,
an error in any single entry of the gradient shows, unless it is below the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

STEP = 1e-4
RELATIVE_TOLERANCE = 1e-8
ROUNDING_TOLERANCE = 1e-10


def slope(loss: Callable[[float], float], step: float) -> float:
    """Fourth-order central difference of ``loss(t)`` at t = 0."""
    near, far = loss(step) - loss(-step), loss(2 * step) - loss(-2 * step)
    return (8 * near - far) / (12 * step)


def check_gradients(
    function: Callable[..., np.ndarray],
    backward: Callable[..., Mapping[str, np.ndarray]],
    inputs: Mapping[str, np.ndarray],
    *,
    seed: int,
    directions: Mapping[str, np.ndarray] | None = None,
    step: float = STEP,
) -> None:
    """Assert that a backward function gives the gradients of a function.

    Parameters
    ----------
    function
        Takes `inputs` by keyword and returns one array. Entries that are not finite are constants
        by definition: they do not enter the loss, though their output weights are passed on to
        `backward`, which must ignore them.
    backward
        Takes the gradient by the output, then `inputs` by keyword; returns a gradient for each
        input, and for nothing else.
    inputs
        float64 arrays by name: the point, at which the function must be smooth.
    seed
        Seeds the output weights and the directions.
    directions
        Directions to use instead of random ones, for the inputs they name; the others are then
        not compared.
    step
        h.
    """
    generator = np.random.default_rng(seed)
    out = np.asarray(function(**inputs))
    finite = np.isfinite(out)
    weights = generator.standard_normal(out.shape)
    gradients = backward(weights, **inputs)
    assert set(gradients) == set(inputs)
    magnitude = float(np.abs(weights[finite] * out[finite]).sum())

    for name, point in inputs.items():
        gradient = gradients[name]
        assert gradient.shape == point.shape, f"{name}: {gradient.shape} for {point.shape}"
        assert gradient.dtype == np.float64, f"{name}: {gradient.dtype}"
        assert np.isfinite(gradient).all(), f"{name}: not finite"
        if directions is not None and name not in directions:
            continue
        direction = (
            generator.standard_normal(point.shape) if directions is None else directions[name]
        )

        def loss(t: float, name=name, point=point, direction=direction) -> float:
            moved = np.asarray(function(**{**inputs, name: point + t * direction}))
            return float((weights[finite] * moved[finite]).sum())

        expected = slope(loss, step)
        actual = float((gradient * direction).sum())
        length = float(np.linalg.norm(gradient * direction))
        tolerance = RELATIVE_TOLERANCE * max(abs(expected), length)
        tolerance += ROUNDING_TOLERANCE * magnitude * (STEP / step)
        assert abs(actual - expected) <= tolerance, (
            f"gradient of {name}: {actual!r} along a random direction, "
            f"finite differences give {expected!r} (tolerance {tolerance:.1e})"
        )
