"""Score maps of which rows are computed when asked for.

Scores of 150 classes for every pixel of a photograph take gigabytes; its label map does not. So
resizing, softmax and averages over views are put together lazily, and only a band of rows exists
at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["RowMap"]

_BAND = 2**25  # numbers in a band


@dataclass(frozen=True, slots=True)
class RowMap:
    """A map ``[B, C, H, W]`` whose rows are computed when asked for.

    Attributes
    ----------
    batch, channels, size : int, int, (int, int)
        B, C and (H, W).
    rows : callable
        Returns rows start…stop-1, ``[B, C, stop - start, W]``, of ``(start, stop)``.
    """

    batch: int
    channels: int
    size: tuple[int, int]
    rows: Callable[[int, int], Tensor]

    @classmethod
    def of(cls, x: Tensor) -> RowMap:
        """Return the map that tensor ``x`` is."""
        batch, channels, height, width = x.shape
        return cls(batch, channels, (height, width), lambda start, stop: x[:, :, start:stop])

    def map(self, function: Callable[[Tensor], Tensor], channels: int | None = None) -> RowMap:
        """Return the map of ``function`` of the rows, which keeps their number and width."""
        rows = self.rows
        return RowMap(
            self.batch,
            self.channels if channels is None else channels,
            self.size,
            lambda start, stop: function(rows(start, stop)),
        )

    def softmax(self) -> RowMap:
        """Return the softmax over channels."""
        return self.map(lambda rows: rows.softmax(1))

    def mirrored(self) -> RowMap:
        """Return the map with left and right exchanged."""
        return self.map(lambda rows: rows.flip(-1))

    def cropped(self, size: tuple[int, int]) -> RowMap:
        """Return the first rows and columns, (H, W) of them."""
        rows = self.rows
        return RowMap(
            self.batch,
            self.channels,
            size,
            lambda start, stop: rows(start, stop)[..., : size[1]],
        )

    def resized(self, size: tuple[int, int]) -> RowMap:
        """Return the map resized bilinearly to (H, W), ``align_corners=False``."""
        if size == self.size:
            return self

        def rows(start: int, stop: int) -> Tensor:
            at = (torch.arange(start, stop, dtype=torch.float64) + 0.5) * self.size[0] / size[0]
            at = (at - 0.5).clamp(0, self.size[0] - 1)
            above = at.floor().long()
            below = (above + 1).clamp(max=self.size[0] - 1)
            first = int(above[0])
            band = self.rows(first, int(below[-1]) + 1)
            share = (at - above).to(device=band.device, dtype=band.dtype)[:, None]
            above, below = ((index - first).to(band.device) for index in (above, below))
            band = torch.lerp(band.index_select(2, above), band.index_select(2, below), share)
            shape = (stop - start, size[1])
            return F.interpolate(band, shape, mode="bilinear", align_corners=False)

        return RowMap(self.batch, self.channels, size, rows)

    @staticmethod
    def mean(maps: Sequence[RowMap]) -> RowMap:
        """Return the mean of maps of one size."""

        def rows(start: int, stop: int) -> Tensor:
            total = maps[0].rows(start, stop)
            for other in maps[1:]:
                total = total + other.rows(start, stop)
            return total / len(maps)

        first = maps[0]
        return RowMap(first.batch, first.channels, first.size, rows)

    def whole(self) -> Tensor:
        """Return all rows, ``[B, C, H, W]``."""
        return self.rows(0, self.size[0])

    def bands(self) -> list[tuple[int, int]]:
        """Return the rows (start, stop) of bands that are small enough to exist at a time."""
        height, width = self.size
        step = max(1, _BAND // (self.batch * self.channels * width))
        return [(start, min(start + step, height)) for start in range(0, height, step)]

    def best(self) -> tuple[Tensor, Tensor]:
        """Return the largest score of each pixel and its channel, ``[B, H, W]`` each."""
        found = [self.rows(start, stop).max(1) for start, stop in self.bands()]
        values = torch.cat([band.values for band in found], 1)
        return values, torch.cat([band.indices for band in found], 1)
