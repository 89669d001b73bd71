"""A position bias in table form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from transnext_ops.backends import torch_backend
from transnext_ops.operators.checks import Grid, check_not_empty, check_parameter

_ranges = WeakIdKeyDictionary()  # map: (its version, least, most)


def _range(index: Tensor) -> tuple[int, int]:
    """Return the least and the largest entry of a map.

    Each map is read once: a training step makes a new table for the same maps, and on a GPU the
    read waits for the device.
    """
    if torch.compiler.is_compiling() or index.is_inference():
        return int(index.min()), int(index.max())
    known = _ranges.get(index)
    if known is None or known[0] != index._version:
        least, most = torch.aminmax(index)
        known = _ranges[index] = (index._version, int(least), int(most))
    return known[1], known[2]


class PositionBias:
    """A position bias in table form.

    Parameters
    ----------
    table : Tensor [h, R, S]
        float32 or float64 (16-bit works and is widened in use); differentiable.
    row_map : Tensor [H, Hp]
        int32 position in the table's rows for query row i and pooled row a.
    col_map : Tensor [W, Wp, taps]
        int32 positions in the table's columns for query column j and pooled column b.
    col_weights : Tensor [W, Wp, taps], optional
        Weight of each tap; may be left out where taps is 1 and the weight 1.

    Raises
    ------
    TypeError, ValueError
        A shape, dtype or device does not fit, or a map points outside the table (looked at once,
        here, so that no operator call has to).

    Notes
    -----
    The maps of :func:`position_bias` are constants of its sizes that all biases of these sizes
    share. A bias copies them when one is first read.
    """

    __slots__ = ("_maps", "_shared", "table")

    def __init__(
        self,
        table: Tensor,
        row_map: Tensor,
        col_map: Tensor,
        col_weights: Tensor | None = None,
        *,
        _trusted: bool = False,
        _shared: bool = False,
    ) -> None:
        self.table = table
        self._maps = (row_map, col_map, col_weights)
        self._shared = _shared
        if not _trusted:
            self._check()

    def _own_maps(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return maps and weights that the caller may write to."""
        if self._shared:
            row_map, col_map, col_weights = self._maps
            self._maps = (
                row_map.clone(),
                col_map.clone(),
                None if col_weights is None else col_weights.clone(),
            )
            self._shared = False
        return self._maps

    @property
    def row_map(self) -> Tensor:
        """int32 [H, Hp], position in the table's rows for query row i and pooled row a."""
        return self._own_maps()[0]

    @property
    def col_map(self) -> Tensor:
        """int32 [W, Wp, taps], positions in the table's columns for query column j, pooled b."""
        return self._own_maps()[1]

    @property
    def col_weights(self) -> Tensor | None:
        """[W, Wp, taps], weight of each tap; None where taps is 1 and the weight 1."""
        return self._own_maps()[2]

    def _check(self) -> None:
        for name, dimensions in (("table", 3), ("row_map", 2), ("col_map", 3)):
            tensor = getattr(self, name)
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{name}: got {type(tensor).__name__}, needs a torch.Tensor")
            if tensor.dim() != dimensions:
                raise ValueError(f"{name}: got {tensor.dim()} dimensions, needs {dimensions}")
            if tensor.device != self.table.device:
                raise ValueError(
                    f"{name}: got device {tensor.device}, needs table's {self.table.device}"
                )
        if not self.table.is_floating_point():
            raise TypeError(f"table: got {self.table.dtype}, needs a floating-point tensor")
        check_not_empty("table", self.table, "[h, R, S]")
        for name, size in (("row_map", self.table.shape[1]), ("col_map", self.table.shape[2])):
            index = getattr(self, name)
            if index.dtype != torch.int32:
                raise TypeError(f"{name}: got {index.dtype}, needs torch.int32")
            least, most = _range(index) if index.numel() else (-1, -1)
            if least < 0 or most >= size:
                raise ValueError(
                    f"{name}: needs at least one entry, all from 0 to {size - 1}, got "
                    + (f"{least} to {most}" if index.numel() else "none")
                )
        if self.col_weights is None and self.col_map.shape[2] != 1:
            raise ValueError(
                f"col_weights: got None, needs weights of {self.col_map.shape[2]} taps"
            )
        if self.col_weights is not None:
            check_parameter(
                "col_weights",
                self.col_weights,
                "[W, Wp, taps]",
                tuple(self.col_map.shape),
                "table",
                self.table,
            )

    @property
    def grid(self) -> Grid:
        """The query grid (H, W)."""
        row_map, col_map, _ = self._maps
        return row_map.shape[0], col_map.shape[0]

    @property
    def pool_grid(self) -> Grid:
        """The pooled grid (Hp, Wp)."""
        row_map, col_map, _ = self._maps
        return row_map.shape[1], col_map.shape[1]

    def dense(self) -> Tensor:
        """Return the bias of every (query, pooled cell): [h, N, P], differentiable."""
        return torch_backend.dense_position_bias(self.table, *self._maps)

    def detach(self) -> PositionBias:
        """Return the same bias without gradient."""
        return PositionBias(self.table.detach(), *self._maps, _trusted=True, _shared=self._shared)


def bias_arguments(
    name: str,
    bias: Tensor | PositionBias | None,
    heads: int,
    grid: Grid,
    pool_grid: Grid,
    q: Tensor,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Check an attention's bias and return ``(bias or table, row_map, col_map, col_weights)``."""
    if bias is None:
        return None, None, None, None
    if isinstance(bias, PositionBias):
        if bias.grid != grid or bias.pool_grid != pool_grid:
            raise ValueError(
                f"{name}: got a PositionBias of grid {bias.grid} and pool grid {bias.pool_grid}, "
                f"needs {grid} and {pool_grid}"
            )
        sizes = (heads, bias.table.shape[1], bias.table.shape[2])
        table = check_parameter(f"{name}.table", bias.table, "[h, R, S]", sizes, "q", q)
        row_map, col_map, weights = bias._maps
        if weights is not None and weights.dtype != table.dtype:
            weights = weights.to(table.dtype)
        return table, row_map, col_map, weights
    sizes = (heads, grid[0] * grid[1], pool_grid[0] * pool_grid[1])
    return check_parameter(name, bias, "[h, N, P]", sizes, "q", q), None, None, None
