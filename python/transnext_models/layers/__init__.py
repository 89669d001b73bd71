"""The building blocks of TransNeXt."""

from __future__ import annotations

from .attention import AggregatedAttention, GlobalAttention, PixelFocusedAttention
from .block import Block
from .conv_glu import ConvolutionalGLU
from .drop import DropPath
from .initialise import initialise
from .patch_embed import PatchEmbed
from .position_bias import StageGrids

__all__ = [
    "AggregatedAttention",
    "Block",
    "ConvolutionalGLU",
    "DropPath",
    "GlobalAttention",
    "PatchEmbed",
    "PixelFocusedAttention",
    "StageGrids",
    "initialise",
]
