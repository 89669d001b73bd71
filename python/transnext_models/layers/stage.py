"""One of the four stages of TransNeXt (paper section 3.3): patch embedding, blocks, norm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

from transnext_ops import fused_blocks
from transnext_ops.backends import registry

from .attention import AggregatedAttention, GlobalAttention, PixelFocusedAttention
from .block import NORM_EPS, Block
from .conv_glu import ConvolutionalGLU
from .derived import DerivesFromWeights
from .fused import features_of, fused_norm, is_channels_last, is_plain_block
from .grids import StageGrids, tokens_to_map
from .patch_embed import PatchEmbed
from .plain import plain, remember_forward
from .residual_stream import run_blocks

__all__ = ["PARTS", "Blocks", "Stage", "build_stage"]

PARTS = ("patch_embed", "block", "norm")  # the published names, before the stage's number

remember_forward(PatchEmbed)


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
        find_grids: Callable[[tuple[int, int]], StageGrids],
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
        frozen = self._as_one_call(x, find_grids)
        if frozen is not None:
            return tokens_to_map(*frozen)
        x, grid = self.embed(x)
        x = run_blocks(self.blocks, x, find_grids(grid), checkpointed=checkpointed)
        normed = self._fused_norm(x)
        return tokens_to_map(self.norm(x) if normed is None else normed, grid)

    def _fused_norm(self, x: Tensor) -> Tensor | None:
        """Return the norm of tokens ``x [B, N, dim]`` as a fused block; None where it is called."""
        if type(self.embed) is not PatchEmbed:  # which knows the backend
            return None
        weights = fused_norm(self.norm, x, self.embed.backend)
        return None if weights is None else fused_blocks.token_norm(x, weights)

    def _as_one_call(
        self, x: Tensor, find_grids: Callable[[tuple[int, int]], StageGrids]
    ) -> tuple[Tensor, tuple[int, int]] | None:
        """Return the tokens of :meth:`normalised_map` and their grid, of a frozen stage: one call.

        None where that may not be.
        """
        features = features_of(x)
        if features is None or x.dim() != 4 or not fused_blocks.runs_programs(x):
            return None
        embed, blocks = self.embed, self.blocks
        if not (isinstance(blocks, Blocks) and blocks.derived.frozen and type(embed) is PatchEmbed):
            return None
        grids = find_grids(embed.grid_of(x))
        program = blocks.derived.get_of_frozen(
            (embed, blocks, self.norm),
            (
                x.shape[1:],
                is_channels_last(x),
                x.dtype,
                features,
                fused_blocks.product_precision(features),
                grids,
                registry.get_backend(),
            ),
            lambda: self._recorded(x[:0], grids),
        )
        return None if program is None else (program(x), grids.grid)

    def _recorded(self, x: Tensor, grids: StageGrids) -> fused_blocks.Program | None:
        """Return the stage on an empty batch as a program; None if a layer has to be called."""
        if not plain(self.embed, PatchEmbed) or not all(
            plain(block, Block) and is_plain_block(block) and block.attn.has_plain_bias_layers()
            for block in self.blocks
        ):
            return None
        program = fused_blocks.Program()
        with fused_blocks.packed_together(), program.recording():
            embedded = self.embed.fused(x)
            if embedded is None or embedded[1] != grids.grid:
                return None
            tokens: Tensor | None = embedded[0]
            for block in self.blocks:
                tokens = None if tokens is None else block.fused(tokens, grids)
            tokens = None if tokens is None else self._fused_norm(tokens)
        if tokens is None:
            return None
        program.ends_with(tokens)
        return program

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
