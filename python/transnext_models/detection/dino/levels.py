"""The cells of all levels as one sequence: tokens, positions, padding, and proposals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...dense.deformable_attention import cells
from ...dense.sine_positions import sine_of_map

__all__ = ["Levels", "flatten_levels"]

_TEMPERATURE = 20.0
_SIDE = 0.05  # of a proposal on the first level, in units of the image's
_INSIDE = (0.01, 0.99)


class Levels(NamedTuple):
    """The cells of a batch's levels, level by level and row by row: S in all.

    Attributes
    ----------
    tokens, positions : Tensor [B, S, C]
        Features, and sine positions with the level's embedding.
    padding : bool Tensor [B, S] or None
        Which cells are padding; None if no image has any.
    shapes : list of (int, int)
        Rows and columns of each level.
    valid : Tensor [B, levels, 2]
        Which part of each level's (columns, rows) is no padding.
    """

    tokens: Tensor
    positions: Tensor
    padding: Tensor | None
    shapes: list[tuple[int, int]]
    valid: Tensor

    def centres(self) -> Tensor:
        """Return each cell's centre (x, y) on every level, ``[B, S, levels, 2]``.

        In units of the levels' sides, padding included.
        """
        centres = []
        for level, (rows, columns) in enumerate(self.shapes):
            sides = self.valid.new_tensor((columns, rows))
            centres.append(
                cells((rows, columns), self.valid) / (sides * self.valid[:, None, level])
            )
        return torch.cat(centres, 1)[:, :, None] * self.valid[:, None]

    def proposals(self) -> tuple[Tensor, Tensor]:
        """Return a box (cx, cy, w, h) for every cell as logits ``[B, S, 4]``, and which count.

        In units of the image without padding. Boxes whose numbers are not all well inside 0..1 and
        those of padding do not count, bool ``[B, S]``: their logits are infinite.
        """
        boxes = []
        for level, (rows, columns) in enumerate(self.shapes):
            sides = self.valid.new_tensor((columns, rows)) * self.valid[:, None, level]
            centres = cells((rows, columns), self.valid) / sides.round()
            boxes.append(torch.cat((centres, torch.full_like(centres, _SIDE * 2.0**level)), -1))
        box = torch.cat(boxes, 1)
        counts = ((box > _INSIDE[0]) & (box < _INSIDE[1])).all(-1)
        if self.padding is not None:
            counts = counts & ~self.padding
        logits = torch.log(box / (1 - box)).masked_fill(~counts[..., None], torch.inf)
        return logits, counts


def flatten_levels(
    maps: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    padded: tuple[int, int],
    level_embed: Tensor,
) -> Levels:
    """Return the cells of maps ``[B, C, H_l, W_l]``.

    Parameters
    ----------
    maps : sequence of Tensor
    sizes : sequence of (int, int)
        Height and width of each image without padding.
    padded : (int, int)
        Those of the batch.
    level_embed : Tensor [levels, C]
    """
    batch, channels = maps[0].shape[:2]
    device = maps[0].device
    image_padding = torch.ones((batch, *padded), device=device)
    for image, (height, width) in enumerate(sizes):
        image_padding[image, :height, :width] = 0
    shapes, tokens, positions, padding, valid = [], [], [], [], []
    for level, x in enumerate(maps):
        rows, columns = shape = (x.shape[2], x.shape[3])
        outside = F.interpolate(image_padding[None], shape)[0].bool()
        position = sine_of_map(outside, channels // 2, temperature=_TEMPERATURE).to(x.dtype)
        shapes.append(shape)
        tokens.append(x.flatten(2).transpose(1, 2))
        positions.append(position.flatten(2).transpose(1, 2) + level_embed[level])
        padding.append(outside.flatten(1))
        across, down = (~outside[:, 0, :]).sum(1) / columns, (~outside[:, :, 0]).sum(1) / rows
        valid.append(torch.stack((across, down), -1))
    unpadded = all(tuple(size) == tuple(padded) for size in sizes)
    return Levels(
        torch.cat(tokens, 1),
        torch.cat(positions, 1),
        None if unpadded else torch.cat(padding, 1),
        shapes,
        torch.stack(valid, 1),
    )
