"""One of the four stages of TransNeXt (paper section 3.3): patch embedding, blocks, norm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

from .attention import AggregatedAttention, GlobalAttention, PixelFocusedAttention
from .block import NORM_EPS, Block
from .conv_glu import ConvolutionalGLU
from .derived import DerivesFromWeights
from .grids import StageGrids, tokens_to_map
from .patch_embed import PatchEmbed
from .residual_stream import run_blocks
from .stage_calls import FindGrids, FrozenStages, fused_stage_norm, may_be_one_call

__all__ = ["PARTS", "Blocks", "Stage", "build_stage"]

PARTS = ("patch_embed", "block", "norm")  # the published names, before the stage's number


class Blocks(DerivesFromWeights, nn.ModuleList):
    """The blocks of a stage; what is derived from them is the frozen stage as one call."""

    def __init__(self, blocks: Iterable[Block] = ()) -> None:
        super().__init__()
        self.extend(blocks)


class Stage(NamedTuple):
    """The parts of stage i, held by the model as ``patch_embed{i}``, ``block{i}``, ``norm{i}``."""

    embed: PatchEmbed
    blocks: Sequence[Block]
    norm: nn.LayerNorm

    def normalised_map(
        self,
        x: Tensor,
        find_grids: FindGrids,
        *,
        checkpointed: bool = False,
    ) -> Tensor:
        """Embed the image or map ``x [B, C, H, W]``, run the blocks and normalise.

        Parameters
        ----------
        x : Tensor
        find_grids : callable
            From the grid of the tokens to all grids of the stage.
        checkpointed : bool
            Whether blocks keep nothing for their backward pass but their input.

        Returns
        -------
        Tensor
            ``[B, dim, H', W']``, channels-last.
        """
        if isinstance(self.blocks, Blocks) and may_be_one_call(self.blocks.derived, x):
            maps = FrozenStages([self], [find_grids], self.blocks.derived).maps(x, [0])
            if maps is not None:
                return maps[0]
        x, grid = self.embed(x)
        x = run_blocks(self.blocks, x, find_grids(grid), checkpointed=checkpointed)
        normed = fused_stage_norm(self.embed, self.norm, x)
        return tokens_to_map(self.norm(x) if normed is None else normed, grid)

    def keep_length_of(self, grids: StageGrids) -> None:
        """Let the attention's length scale count the keys of these grids, whatever the image."""
        for block in self.blocks:
            block.attn.training_keys = grids.pool_grid[0] * grids.pool_grid[1]


def build_stage(
    in_chans: int,
    dim: int,
    *,
    stride: int,
    attention: Literal["aggregated", "pixel_focused", "global"],
    num_heads: int,
    window_size: int,
    qkv_bias: bool,
    attn_drop: float,
    hidden: int,
    proj_drop: float,
    drop_path_rates: Sequence[float],
) -> tuple[PatchEmbed, Blocks, nn.LayerNorm]:
    """Build the parts of a stage, in the order of `PARTS`.

    Parameters
    ----------
    in_chans, dim : int
        Channels of the map before and width of this stage.
    stride : int
        Of the patch embedding, whose kernel overlaps: 7 for stride 4, 3 for stride 2.
    attention, num_heads, window_size, qkv_bias, attn_drop
        Of each block's attention; global attention has no window.
    hidden : int
        Width of the plain MLP that the channel mixer is as large as.
    proj_drop : float
        Dropout rate of the projections, in attention and channel mixer.
    drop_path_rates : sequence of float
        Stochastic depth rate of each block.
    """

    def build_attention() -> AggregatedAttention | PixelFocusedAttention | GlobalAttention:
        if attention == "global":
            return GlobalAttention(dim, num_heads, qkv_bias, attn_drop, proj_drop)
        windowed = AggregatedAttention if attention == "aggregated" else PixelFocusedAttention
        return windowed(dim, num_heads, window_size, qkv_bias, attn_drop, proj_drop)

    embed = PatchEmbed(in_chans, dim, kernel_size=2 * stride - 1, stride=stride)
    blocks = Blocks(
        Block(dim, build_attention(), ConvolutionalGLU(dim, hidden, drop=proj_drop), rate)
        for rate in drop_path_rates
    )
    return embed, blocks, nn.LayerNorm(dim, eps=NORM_EPS)
