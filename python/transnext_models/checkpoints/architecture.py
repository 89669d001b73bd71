"""Infer from a state dict's names and shapes which TransNeXt it belongs to."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..variants import VARIANTS, Variant
from .limits import MOST_BLOCKS, MOST_CLASSES

# As PyTorch writes the numbers: without leading zeros. No network has so many blocks as 5 digits.
_BLOCK = re.compile(r"block([1-4])\.(0|[1-9][0-9]{0,3})\.", re.ASCII)
_STAGES = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the shapes of a state dict say about the network.

    Attributes
    ----------
    embed_dims, num_heads, depths : tuple[int, ...]
        One entry for each of the four stages.
    global_attention : tuple[bool, ...]
        For each stage, whether its blocks use global attention (``sr_ratio`` 1).
    window_size : int | None
        Of the aggregated-attention blocks; None if there are none.
    in_chans : int
        Channels of the input image.
    num_classes : int | None
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

    Only names and shapes are looked at, so tensors on the ``meta`` device will do. What one tensor
    says must agree with the others: a number that is not borne out by tensors is not believed.
    """
    try:
        return _architecture(state_dict)
    # A name missing, or a tensor with too few dimensions or other sizes: not this family.
    except (KeyError, ValueError):
        return None


def _architecture(state_dict: Mapping[str, torch.Tensor]) -> Architecture:
    depths = _depths(state_dict)
    # Of the stages' inputs, too: the image's channels, then the stage before.
    widths = [_shape(state_dict, "patch_embed1.proj.weight", 4)[1]]
    heads, uses_global, windows = [], [], set()
    for stage in _STAGES:
        width, inputs = _shape(state_dict, f"patch_embed{stage}.proj.weight", 4)[:2]
        _agree(inputs == widths[-1])
        widths.append(width)
        attention = f"block{stage}.0.attn"
        heads.append(_shape(state_dict, f"{attention}.temperature", 3)[0])
        _agree(width % heads[-1] == 0)
        uses_global.append(f"{attention}.qkv.weight" in state_dict)
        if f"{attention}.relative_pos_bias_local" in state_dict:
            cells = _shape(state_dict, f"{attention}.relative_pos_bias_local", 2)[1]
            _agree(math.isqrt(cells) ** 2 == cells)
            windows.add(math.isqrt(cells))
    _agree(len(windows) <= 1)
    classes = None
    if "head.weight" in state_dict:
        classes, features = _shape(state_dict, "head.weight", 2)
        _agree(features == widths[-1] and classes <= MOST_CLASSES)
    return Architecture(
        embed_dims=tuple(widths[1:]),
        num_heads=tuple(heads),
        depths=depths,
        global_attention=tuple(uses_global),
        window_size=next(iter(windows), None),
        in_chans=widths[0],
        num_classes=classes,
    )


def _depths(state_dict: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
    """Return how many blocks each stage has, which are numbered from 0 without a gap."""
    blocks: dict[int, set[int]] = {stage: set() for stage in _STAGES}
    for key in state_dict:
        match = _BLOCK.match(key)
        if match:
            blocks[int(match[1])].add(int(match[2]))
    for numbers in blocks.values():
        _agree(0 < len(numbers) <= MOST_BLOCKS and max(numbers) == len(numbers) - 1)
    return tuple(len(blocks[stage]) for stage in _STAGES)


def _shape(state_dict: Mapping[str, torch.Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    """Return the shape of a tensor that has elements, and so many dimensions."""
    shape = tuple(state_dict[name].shape)
    _agree(len(shape) == dimensions and all(shape))
    return shape


def _agree(condition: bool) -> None:
    if not condition:
        raise ValueError("the shapes are not those of a TransNeXt")
