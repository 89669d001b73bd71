"""The building blocks of TransNeXt."""

from __future__ import annotations

from .attention import AggregatedAttention, GlobalAttention, PixelFocusedAttention
from .block import Block
from .conv_glu import ConvolutionalGLU
from .drop import DropPath
from .grids import StageGrids
from .initialise import initialise
from .on_maps import OnMaps
from .patch_embed import PatchEmbed

__all__ = [
    "AggregatedAttention",
    "Block",
    "ConvolutionalGLU",
    "DropPath",
    "GlobalAttention",
    "OnMaps",
    "PatchEmbed",
    "PixelFocusedAttention",
    "StageGrids",
    "initialise",
]
