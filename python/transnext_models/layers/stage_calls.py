"""Stages of a frozen model, and what takes their last map, as one call of the compiled library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn

from transnext_ops import fused_blocks
from transnext_ops.backends import registry

from .block import Block
from .derived import Derived
from .fused import features_of, fused_head, fused_norm, is_channels_last, is_plain_block
from .grids import StageGrids, tokens_to_map
from .patch_embed import PatchEmbed
from .plain import plain, remember_forward

__all__ = [
    "FindGrids",
    "FrozenStages",
    "Parts",
    "fused_pooled_head",
    "fused_stage_norm",
    "may_be_one_call",
]

remember_forward(PatchEmbed)

FindGrids: TypeAlias = Callable[[tuple[int, int]], StageGrids]
Parts: TypeAlias = tuple[PatchEmbed, Sequence[Block], nn.LayerNorm]


def may_be_one_call(derived: Derived, x: Tensor) -> bool:
    """Whether what this is the cache of is frozen, and a call on `x` may be looked for in it."""
    return derived.frozen and features_of(x) is not None


class _Recorded(NamedTuple):
    """A program, the grids of the stages, and how many results of the program are whole."""

    program: fused_blocks.Program
    grids: Sequence[StageGrids]
    results: int


@dataclass(frozen=True)
class FrozenStages:
    """Frozen stages and what takes the last map.

    Attributes
    ----------
    stages : sequence of (patch embedding, blocks, norm)
    find_grids : sequence of callable
        For each stage, from the grid of its tokens to all its grids.
    derived : Derived
        Their cache.
    head : nn.Module, optional
        What takes the mean of the last map; it may be anything.
    """

    stages: Sequence[Parts]
    find_grids: Sequence[FindGrids]
    derived: Derived
    head: nn.Module | None = None

    def maps(self, x: Tensor, wanted: Sequence[int]) -> list[Tensor] | None:
        """Return the normalised maps of some stages; None where that may not be one call.

        Parameters
        ----------
        x : Tensor
            The image or map ``[B, C, H, W]`` before the first stage.
        wanted : sequence of int
            The stages. What follows the last of them does not run.

        Returns
        -------
        list of Tensor ``[B, dim, H', W']``, or None
            Channels-last, in the order of `wanted`.
        """
        recorded = self._recorded(x)
        if recorded is None or recorded.results <= max(wanted):
            return None
        return [
            tokens_to_map(tokens, recorded.grids[stage].grid)
            for stage, tokens in zip(wanted, recorded.program(x, wanted), strict=True)
        ]

    def logits(self, x: Tensor) -> Tensor | None:
        """Return what the head gives, ``[B, classes]``; None where that may not be one call."""
        recorded = self._recorded(x)
        if recorded is None or recorded.results <= len(self.stages):
            return None
        return recorded.program(x, [len(self.stages)])[0].squeeze(1)

    def _recorded(self, x: Tensor) -> _Recorded | None:
        features = features_of(x)
        if features is None or x.dim() != 4 or not fused_blocks.runs_programs(x):
            return None
        grids: list[StageGrids] = []
        height, width = x.shape[2:]
        for (embed, *_), find in zip(self.stages, self.find_grids, strict=True):
            if type(embed) is not PatchEmbed:
                return None
            height, width = embed.grid_of(height, width)
            grids.append(find((height, width)))
        modules: list[Any] = [part for parts in self.stages for part in parts]
        return self.derived.get_of_frozen(
            modules if self.head is None else [*modules, self.head],
            (
                x.shape[1:],
                is_channels_last(x),
                x.dtype,
                features,
                fused_blocks.product_precision(features),
                tuple(grids),
                registry.get_backend(),
            ),
            lambda: _record(self.stages, self.head, x[:0], grids),
        )


def fused_stage_norm(embed: PatchEmbed, norm: nn.LayerNorm, x: Tensor) -> Tensor | None:
    """Return a stage's norm of tokens ``x [B, N, dim]`` as a fused block, None where it is called.

    The stage's patch embedding knows the backend.
    """
    if type(embed) is not PatchEmbed:
        return None
    weights = fused_norm(norm, x, embed.backend)
    return None if weights is None else fused_blocks.token_norm(x, weights)


def fused_pooled_head(embed: PatchEmbed, head: nn.Module, x: Tensor) -> Tensor | None:
    """Return the head's logits of a map ``x [B, dim, H, W]``, None where it has to be called.

    The patch embedding before the map knows the backend.
    """
    if features_of(x) is None or type(embed) is not PatchEmbed or x.dim() != 4:
        return None
    tokens = x.flatten(2).transpose(1, 2)
    weights = fused_head(head, tokens, embed.backend)
    return None if weights is None else fused_blocks.pooled_linear(tokens, *weights)


def _record(
    stages: Sequence[Parts], head: nn.Module | None, x: Tensor, grids: Sequence[StageGrids]
) -> _Recorded:
    """Run all this on an empty batch, up to the first stage with a layer that has to be called."""
    program = fused_blocks.Program()
    with fused_blocks.packed_together(), program.recording():
        for number, (parts, of_stage) in enumerate(zip(stages, grids, strict=True)):
            tokens = _fused_stage(parts, x, of_stage)
            if tokens is None:  # the program may have steps of this stage, which never run
                return _Recorded(program, grids, number)
            x = tokens_to_map(tokens, of_stage.grid)
        logits = None if head is None else fused_pooled_head(stages[-1][0], head, x)
    return _Recorded(program, grids, len(stages) + (logits is not None))


def _fused_stage(parts: Parts, x: Tensor, grids: StageGrids) -> Tensor | None:
    """Return a stage's normalised tokens by fused blocks; None if a layer has to be called."""
    embed, blocks, norm = parts
    if not plain(embed, PatchEmbed) or not all(map(_is_plain, blocks)):
        return None
    embedded = embed.fused(x)
    if embedded is None or embedded[1] != grids.grid:
        return None
    tokens: Tensor | None = embedded[0]
    for block in blocks:
        if tokens is None:
            return None
        tokens = block.fused(tokens, grids)
    return None if tokens is None else fused_stage_norm(embed, norm, tokens)


def _is_plain(block: Block) -> bool:
    return plain(block, Block) and is_plain_block(block) and block.attn.has_plain_bias_layers()
