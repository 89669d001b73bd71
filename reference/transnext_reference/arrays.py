"""How every function of the reference takes its arguments: as float64, of the right shape."""

from __future__ import annotations

import math
import operator
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float64]
Grid: TypeAlias = tuple[int, int]

BATCH = -1
"""Among the extents that `float64` needs: any, also 0, as an empty batch has."""


def float64(name: str, value: ArrayLike, *shape: int | None) -> Array:
    """Convert an argument to float64 and check its shape.

    Parameters
    ----------
    name
        The argument's name, for the error.
    value
        Anything NumPy reads as an array of real numbers.
    *shape
        The extent needed of each axis; None where any but 0 will do, BATCH where 0 will too.

    Returns
    -------
    numpy.ndarray
        float64; a view where `value` is one already.

    Raises
    ------
    ValueError
        If the number of axes or an extent differs. Nothing is ever broadcast: an argument of
        another shape is a mistake, not a shorthand.
    """
    array = np.asarray(value, dtype=np.float64)
    fits = array.ndim == len(shape) and all(
        needed == BATCH or extent == needed or (needed is None and extent > 0)
        for extent, needed in zip(array.shape, shape, strict=True)
    )
    if not fits:
        needs = ", ".join("any" if needed in (None, BATCH) else str(needed) for needed in shape)
        empty = ", none of them 0 but a batch" if 0 in array.shape else ""
        raise ValueError(f"{name}: got shape {list(array.shape)}, needs [{needs}]{empty}")
    return array


def optional_float64(name: str, value: ArrayLike | None, *shape: int | None) -> Array | None:
    """As `float64`; None stays None."""
    return None if value is None else float64(name, value, *shape)


def axis_map(name: str, value: ArrayLike, extent: int, *shape: int | None) -> NDArray[np.intp]:
    """Check a map of whole numbers in ``0 .. extent - 1`` and its shape.

    Raises
    ------
    ValueError
        If the map has another shape, holds something else than integers, or points outside.
    """
    indices = np.asarray(value)
    if indices.dtype.kind not in "iu":
        raise ValueError(f"{name}: got dtype {indices.dtype}, needs integers")
    float64(name, indices, *shape)
    if indices.size and not (indices.min() >= 0 and indices.max() < extent):
        raise ValueError(
            f"{name}: got values {indices.min()} to {indices.max()}, needs 0 to {extent - 1}"
        )
    return indices.astype(np.intp)


def check_grid(name: str, grid: Grid) -> Grid:
    """Return ``(rows, columns)`` as two ints of at least 1.

    Raises
    ------
    ValueError
        If `grid` is anything else.
    """
    try:
        rows, columns = (operator.index(extent) for extent in grid)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: got {grid!r}, needs two whole numbers (rows, columns)") from None
    if rows < 1 or columns < 1:
        raise ValueError(f"{name}: got {grid!r}, needs at least one row and one column")
    return rows, columns


def cell_count(name: str, grid: Grid) -> int:
    """Return the number of cells of a grid: N of ``(H, W)``, P of ``(Hp, Wp)``."""
    return math.prod(check_grid(name, grid))
