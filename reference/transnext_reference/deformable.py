r"""Multi-scale deformable attention between its Linears.

Head h of a query sums its values at a few places of every map::

    out[n, h] = sum_s a[n, h, s] value_h(place[n, h, s]),      a = softmax_s(logits[n, h])

with ``place = reference * sides + offset - 1/2`` in cells of the sample's level, cell i having its
centre at i; a box ``(cx, cy, w, h)`` as reference counts offsets in half sides over the points of a
level. A value between centres is bilinear, the sum over the four cells c around a place of
``u_c value[c]``, u_c = (1 - |x - x_c|) (1 - |y - y_c|), and cells outside the map are zero.

Source: Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection", ICLR
2021, arXiv 2010.04159, equations 2 and 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transnext_reference.arrays import BATCH, Array, Grid, check_grid, float64
from transnext_reference.numerics import softmax, softmax_backward


@dataclass(frozen=True)
class _Level:
    """The samples of one level.

    Attributes
    ----------
    samples : slice
        Of all samples.
    cells : slice
        Of all cells.
    grid : (int, int)
    unit : numpy.ndarray
        What an offset counts, in cells, ``[B, N, 1, 1, 2]`` or 1.
    place : numpy.ndarray
        In cells, ``[B, N, h, points, 2]``, (x, y).
    """

    index: int
    samples: slice
    cells: slice
    grid: Grid
    unit: Array
    place: Array

    @property
    def sides(self) -> Array:
        """Columns and rows."""
        return np.array(self.grid[::-1], dtype=np.float64)

    def corners(self) -> Iterator[_Corner]:
        """Yield the four cells around each place."""
        rows, columns = self.grid
        low = np.floor(self.place)
        between = self.place - low  # from the first cell to the second
        for down in (0, 1):
            for across in (0, 1):
                x, y = low[..., 0] + across, low[..., 1] + down
                with np.errstate(invalid="ignore"):
                    inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
                cell = np.where(inside, y * columns + x, 0).astype(np.intp) + self.cells.start
                share_x = between[..., 0] if across else 1 - between[..., 0]
                share_y = between[..., 1] if down else 1 - between[..., 1]
                slope = (share_y * (2 * across - 1), share_x * (2 * down - 1))
                zero = np.zeros_like(share_x)
                yield _Corner(
                    cell,
                    inside,
                    np.where(inside, share_x * share_y, zero),
                    np.where(inside[..., None], np.stack(slope, -1), 0.0),
                )


@dataclass(frozen=True)
class _Corner:
    """One of the four cells around each place: where it is, its share, and the share's slope."""

    cell: NDArray[np.intp]  # [B, N, h, points]
    inside: NDArray[np.bool_]
    share: Array
    slope: Array  # [B, N, h, points, 2]

    def read(self, value: Array) -> Array:
        """Return the cells' values ``[B, N, h, points, d]``, zero outside."""
        image = np.arange(value.shape[0])[:, None, None, None]
        head = np.arange(value.shape[2])[None, None, :, None]
        return np.where(self.inside[..., None], value[image, self.cell, head], 0.0)

    def add(self, gradient: Array, d_value: Array) -> None:
        """Add gradients ``[B, N, h, points, d]`` of the cells' values to those of all values."""
        image, _, head, _ = np.nonzero(self.inside)
        at = (image, self.cell[self.inside], head)
        np.add.at(d_value, at, gradient[self.inside])


def _arguments(
    value: ArrayLike, offsets: ArrayLike, logits: ArrayLike, reference: ArrayLike
) -> tuple[Array, Array, Array, Array]:
    value = float64("value", value, BATCH, None, None, None)
    batch, _, heads, _ = value.shape
    logits = float64("logits", logits, batch, BATCH, heads, None)
    offsets = float64("offsets", offsets, *logits.shape, 2)
    reference = float64("reference", reference, batch, logits.shape[1], None, None)
    if reference.shape[3] not in (2, 4):
        raise ValueError(f"reference: got {reference.shape[3]} numbers, needs 2 or 4")
    return value, offsets, logits, reference


def _levels(
    value: Array, offsets: Array, reference: Array, shapes: Sequence[Grid]
) -> Iterator[_Level]:
    grids = [check_grid("shapes", grid) for grid in shapes]
    samples, cells = offsets.shape[3], sum(rows * columns for rows, columns in grids)
    if reference.shape[2] != len(grids) or samples % len(grids):
        raise ValueError(
            f"shapes: got {len(grids)} levels, needs {reference.shape[2]} as the reference, and "
            f"the same number of the {samples} samples on each"
        )
    if value.shape[1] != cells:
        raise ValueError(f"value: got {value.shape[1]} cells, needs {cells}, those of the levels")
    points, start = samples // len(grids), 0
    for index, grid in enumerate(grids):
        sides = np.array(grid[::-1])
        near = reference[:, :, index, None, None]  # [B, N, 1, 1, 2 or 4]
        unit = near[..., 2:] * sides / 2 / points if near.shape[-1] == 4 else np.ones(2)
        some = slice(index * points, (index + 1) * points)
        place = near[..., :2] * sides - 0.5 + unit * offsets[..., some, :]
        cells_here = slice(start, start + grid[0] * grid[1])
        start = cells_here.stop
        yield _Level(index, some, cells_here, grid, unit, place)


def deformable_attention(
    value: ArrayLike,
    offsets: ArrayLike,
    logits: ArrayLike,
    reference: ArrayLike,
    *,
    shapes: Sequence[Grid],
) -> Array:
    """Sum each head's values at a query's places by weight.

    Parameters
    ----------
    value
        ``[B, S, h, d]``, the cells of one level after the other, each level's row by row.
    offsets
        ``[B, N, h, samples, 2]``, (x, y); samples lie level by level, as many on each.
    logits
        ``[B, N, h, samples]``.
    reference
        ``[B, N, levels, 2]``, (x, y) in units of the level's sides, or ``[B, N, levels, 4]``,
        (cx, cy, w, h).
    shapes
        ``(rows, columns)`` of each level.

    Returns
    -------
    numpy.ndarray
        ``[B, N, h, d]``.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    value, offsets, logits, reference = _arguments(value, offsets, logits, reference)
    weights, _ = softmax(logits)
    out = np.zeros((*logits.shape[:3], value.shape[3]))
    for level in _levels(value, offsets, reference, shapes):
        for corner in level.corners():
            share = weights[..., level.samples] * corner.share
            out += (share[..., None] * corner.read(value)).sum(3)
    return out


def deformable_attention_backward(
    d_out: ArrayLike,
    value: ArrayLike,
    offsets: ArrayLike,
    logits: ArrayLike,
    reference: ArrayLike,
    *,
    shapes: Sequence[Grid],
) -> dict[str, Array]:
    r"""Gradients of `deformable_attention`.

    With ``D_c = d_out . value[c]`` for the four cells c around a place::

        d_value[c] += a u_c d_out                             [B, S, h, d]
        d_a = sum_c u_c D_c                                   [B, N, h, samples]
        d_place = a sum_c D_c grad u_c                        [B, N, h, samples, 2]

    and d_logits by the softmax's rule, d_offsets and d_reference by the chain rule. On a cell's
    centre, where the map has a kink, grad u_c is that of the side towards larger coordinates.

    Parameters
    ----------
    d_out
        ``[B, N, h, d]``.
    value, offsets, logits, reference, shapes
        As in `deformable_attention`.

    Returns
    -------
    dict
        The gradients of ``value``, ``offsets``, ``logits`` and ``reference``.
    """
    value, offsets, logits, reference = _arguments(value, offsets, logits, reference)
    d_out = float64("d_out", d_out, *logits.shape[:3], value.shape[3])
    weights, _ = softmax(logits)
    d_value, d_offsets = np.zeros(value.shape), np.zeros(offsets.shape)
    d_weights, d_reference = np.zeros(logits.shape), np.zeros(reference.shape)
    upstream = d_out[:, :, :, None]  # [B, N, h, 1, d]
    for level in _levels(value, offsets, reference, shapes):
        some, here = level.samples, weights[..., level.samples]
        d_place = np.zeros(level.place.shape)
        for corner in level.corners():
            product = (upstream * corner.read(value)).sum(-1)
            corner.add((here * corner.share)[..., None] * upstream, d_value)
            d_weights[..., some] += corner.share * product
            d_place += (here * product)[..., None] * corner.slope
        d_offsets[..., some, :] = level.unit * d_place
        d_reference[:, :, level.index, :2] = level.sides * d_place.sum((2, 3))
        if reference.shape[3] == 4:
            half = level.sides / 2 / level.place.shape[3]
            moved = (offsets[..., some, :] * d_place).sum((2, 3))
            d_reference[:, :, level.index, 2:] = half * moved
    return {
        "value": d_value,
        "offsets": d_offsets,
        "logits": softmax_backward(d_weights, weights),
        "reference": d_reference,
    }
