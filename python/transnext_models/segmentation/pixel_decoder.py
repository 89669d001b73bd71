"""Mask2Former's pixel decoder: three levels through deformable attention, then stride 4.

Source: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR
2022, arXiv 2112.01527, section 4.1 and appendix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..dense.convolutions import ConvNorm
from ..dense.deformable_attention import DeformableAttention, cell_centres
from ..dense.sine_positions import sine_of_map
from ..dense.transformer_layers import DeformableEncoder

__all__ = ["PixelDecoder", "position_tokens"]


class PixelDecoder(nn.Module):
    """Make the transformer decoder's memories and the map that masks are read from.

    Parameters
    ----------
    in_channels : sequence of int
        Channels of the backbone's four maps, that of the smallest stride first.
    channels : int
        Channels of all that comes out.
    depth, hidden_dim, num_heads, num_points : int
        Of the deformable encoder: layers, channels inside its FFN, heads, points on a level.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        *,
        depth: int = 6,
        hidden_dim: int = 1024,
        num_heads: int = 8,
        num_points: int = 4,
    ) -> None:
        super().__init__()
        first, *encoded = in_channels
        self.input_convs = nn.ModuleList(
            ConvNorm(width, channels, norm="gn", bias=True, relu=False)
            for width in reversed(encoded)
        )
        self.encoder = DeformableEncoder(
            depth,
            embed_dim=channels,
            hidden_dim=hidden_dim,
            num_heads=num_heads,
            num_levels=len(encoded),
            num_points=num_points,
        )
        self.level_encoding = nn.Embedding(len(encoded), channels)
        self.lateral_convs = nn.ModuleList([ConvNorm(first, channels, norm="gn", relu=False)])
        self.output_convs = nn.ModuleList([ConvNorm(channels, channels, 3, norm="gn")])
        self.mask_feature = nn.Conv2d(channels, channels, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as published: Xavier for the encoder and the input's convolutions."""
        for parameter in self.encoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
        for module in self.encoder.modules():
            if isinstance(module, DeformableAttention):
                module.reset_parameters()
        for conv in _convolutions(self.input_convs):
            nn.init.xavier_uniform_(conv.weight)
        for conv in _convolutions(self.lateral_convs, self.output_convs, self.mask_feature):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        assert self.mask_feature.bias is not None
        nn.init.zeros_(self.mask_feature.bias)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decode the backbone's maps ``[B, C_i, H_i, W_i]``.

        Returns
        -------
        Tensor
            Mask features ``[B, channels, H_0, W_0]``.
        list of Tensor
            Memories ``[B, channels, H_i, W_i]``, that of the largest stride first.
        """
        first, *encoded = maps
        levels = [conv(x) for conv, x in zip(self.input_convs, reversed(encoded), strict=True)]
        shapes = [(x.shape[2], x.shape[3]) for x in levels]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in levels], 1)
        positions = [
            position_tokens(shape, tokens) + encoding
            for shape, encoding in zip(shapes, self.level_encoding.weight, strict=True)
        ]
        centres = cell_centres(shapes, tokens)[None, :, None]
        reference = centres.expand(tokens.shape[0], -1, len(shapes), -1)
        tokens = self.encoder(tokens, torch.cat(positions, 1), reference, shapes)
        memories = [
            part.transpose(1, 2).unflatten(2, shape)
            for part, shape in zip(
                tokens.split([rows * columns for rows, columns in shapes], 1), shapes, strict=True
            )
        ]
        lateral = self.lateral_convs[0](first)
        finest = F.interpolate(
            memories[-1], lateral.shape[-2:], mode="bilinear", align_corners=False
        )
        return self.mask_feature(self.output_convs[0](lateral + finest)), memories


def position_tokens(shape: tuple[int, int], like: Tensor) -> Tensor:
    """Return the sine positions ``[1, H · W, C]`` of a map; ``like`` gives C, device and dtype."""
    nothing_padded = torch.zeros((1, *shape), dtype=torch.bool, device=like.device)
    positions = sine_of_map(nothing_padded, like.shape[-1] // 2)
    return positions.flatten(2).transpose(1, 2).to(like.dtype)


def _convolutions(*modules: nn.Module) -> list[nn.Conv2d]:
    return [part for module in modules for part in module.modules() if isinstance(part, nn.Conv2d)]
