"""The sizes of an operator in TransNeXt-Tiny's stages."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.shapes.cases import TINY_STAGES, Case
from benchmarks.shapes.grids import OnGrids

HEAD_DIM = 24
WINDOW_SIZE = 3
BIAS_HIDDEN = 512


@dataclass(frozen=True)
class Shapes(OnGrids):
    """The sizes of a stage."""

    batch: int
    grid: tuple[int, int]
    pool_grid: tuple[int, int]
    pretrain_grid: tuple[int, int]
    heads: int
    hidden: int

    @property
    def width(self) -> int:
        """Channels."""
        return self.heads * HEAD_DIM


def shapes(case: Case) -> Shapes:
    """Return the sizes of an operator's case."""
    heads, ratio, mlp_ratio = TINY_STAGES[case.stage]
    height, width = (side // (4 << case.stage) for side in case.size)
    pretrain = 224 // (4 << case.stage)
    hidden = int(2 * heads * HEAD_DIM * mlp_ratio / 3)
    return Shapes(
        case.batch,
        (height, width),
        (height // ratio, width // ratio),
        (pretrain, pretrain),
        heads,
        hidden,
    )
