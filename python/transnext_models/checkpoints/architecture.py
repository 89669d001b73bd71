"""Tell from a state dict's names and shapes which TransNeXt it belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..variants import VARIANTS, Variant

_BLOCK = re.compile(r"block(\d+)\.(\d+)\.")
_STAGES = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the shapes of a state dict say about the network.

    Attributes
    ----------
    embed_dims, num_heads, depths
        One entry for each of the four stages.
    global_attention
        For each stage, whether its blocks use global attention (``sr_ratio`` 1).
    window_size
        Of the aggregated-attention blocks; None if there are none.
    in_chans
        Channels of the input image.
    num_classes
        Rows of the classification head; None without one.
    """

    embed_dims: tuple[int, ...]
    num_heads: tuple[int, ...]
    depths: tuple[int, ...]
    global_attention: tuple[bool, ...]
    window_size: int | None
    in_chans: int
    num_classes: int | None

    @property
    def variant(self) -> Variant | None:
        """The known variant of these shapes, or None."""
        for variant in VARIANTS.values():
            if (
                variant.embed_dims == self.embed_dims
                and variant.num_heads == self.num_heads
                and variant.depths == self.depths
                and tuple(ratio == 1 for ratio in variant.sr_ratios) == self.global_attention
                and self.window_size in (None, variant.window_size)
            ):
                return variant
        return None

    def __str__(self) -> str:
        variant = self.variant
        widths = " ".join(map(str, self.embed_dims))
        depths = " ".join(map(str, self.depths))
        name = variant.name if variant else f"a TransNeXt of widths {widths} and depths {depths}"
        head = "without a head" if self.num_classes is None else f"with {self.num_classes} classes"
        return f"{name} {head}"


def infer_architecture(state_dict: Mapping[str, torch.Tensor]) -> Architecture | None:
    """Return the architecture that `state_dict` belongs to, or None if it is no TransNeXt.

    Only names and shapes are looked at, so tensors on the ``meta`` device will do.
    """
    blocks: dict[int, set[int]] = {stage: set() for stage in _STAGES}
    for key in state_dict:
        match = _BLOCK.match(key)
        if match and int(match[1]) in blocks:
            blocks[int(match[1])].add(int(match[2]))
    try:
        first = [f"block{stage}.{min(blocks[stage])}.attn" for stage in _STAGES]
        window = next(
            (
                state_dict[f"{prefix}.relative_pos_bias_local"].shape[1]
                for prefix in first
                if f"{prefix}.relative_pos_bias_local" in state_dict
            ),
            None,
        )
        head = state_dict.get("head.weight")
        return Architecture(
            embed_dims=tuple(
                state_dict[f"patch_embed{stage}.proj.weight"].shape[0] for stage in _STAGES
            ),
            num_heads=tuple(state_dict[f"{prefix}.temperature"].shape[0] for prefix in first),
            depths=tuple(len(blocks[stage]) for stage in _STAGES),
            global_attention=tuple(f"{prefix}.qkv.weight" in state_dict for prefix in first),
            window_size=None if window is None else round(window**0.5),
            in_chans=state_dict["patch_embed1.proj.weight"].shape[1],
            num_classes=None if head is None else head.shape[0],
        )
    # A name missing, a stage without blocks, or a tensor with too few dimensions: not this family.
    except (KeyError, ValueError, IndexError):
        return None
