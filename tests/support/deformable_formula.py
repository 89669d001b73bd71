"""Deformable attention between its Linears as a formula in NumPy, float64."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def deformable_attention(
    value: Array,
    offsets: Array,
    logits: Array,
    reference: Array,
    shapes: Sequence[tuple[int, int]],
) -> Array:
    """Return ``[B, N, h * d]``; see :func:`transnext_ops.fused_blocks.deformable_attention`."""
    batch, _, heads, channels = value.shape
    points = logits.shape[3] // len(shapes)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    starts = np.cumsum([0, *(rows * columns for rows, columns in shapes)])
    image = np.arange(batch)[:, None, None, None]
    head = np.arange(heads)[None, None, :, None]
    out = np.zeros((*logits.shape[:3], channels))
    for level, (rows, columns) in enumerate(shapes):
        cells = value[:, starts[level] : starts[level + 1]]
        cells = cells.reshape(batch, rows, columns, heads, channels)
        some = slice(level * points, (level + 1) * points)
        sides = np.array([columns, rows])
        near = reference[:, :, level, None, None]
        unit = near[..., 2:] * sides / 2 / points if near.shape[-1] == 4 else 1.0
        # Cell i has its centre at i + 0.5.
        place = near[..., :2] * sides + offsets[..., some, :] * unit - 0.5
        for across, down in itertools.product((0, 1), (0, 1)):
            x, y = np.moveaxis(np.floor(place) + np.array([across, down]), -1, 0)
            share = (1 - np.abs(place - np.stack((x, y), -1))).prod(-1) * weights[..., some]
            inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
            column = np.where(inside, x, 0).astype(int)
            row = np.where(inside, y, 0).astype(int)
            read = cells[image, row, column, head]  # [B, N, h, points, d]
            out += (np.where(inside, share, 0.0)[..., None] * read).sum(3)
    return out.reshape(*out.shape[:2], heads * channels)
