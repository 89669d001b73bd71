"""Multi-scale deformable attention: Linears around ``transnext_ops.deformable_attention``.

Source: Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection", ICLR
2021, arXiv 2010.04159, section 4.1. DINO and Mask2Former share it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from transnext_ops import deformable_attention

from ..layers.plain import remember_forward

__all__ = ["DeformableAttention", "cell_centres", "cells"]


class DeformableAttention(nn.Module):
    """Each query reads a few points around its reference, on every level.

    Head h of a query gets the sum of ``weight[h, l, p] · value_h(location[h, l, p])`` over levels l
    and points p; value_h is bilinear between cell centres and zero outside the map. Offsets and
    weights (softmax over levels and points) are linear in the query.

    Parameters
    ----------
    embed_dim, num_heads : int
        Channels C and the heads that share them.
    num_levels, num_points : int
        Maps, and points on each, that a head of a query reads.
    """

    def __init__(
        self, embed_dim: int = 256, num_heads: int = 8, num_levels: int = 4, num_points: int = 4
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(
                f"embed_dim: got {embed_dim}, needs a multiple of num_heads={num_heads}"
            )
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dim, 2 * samples)
        self.attention_weights = nn.Linear(embed_dim, samples)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as published: head h looks along 2πh / heads, its point p p + 1 cells away."""
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack((angles.cos(), angles.sin()), -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        distances = torch.arange(1.0, self.num_points + 1)
        offsets = directions[:, None, None, :] * distances[:, None]  # [heads, 1, points, 2]
        with torch.no_grad():
            bias = offsets.expand(-1, self.num_levels, -1, -1).reshape(-1)
            self.sampling_offsets.bias.copy_(bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: Tensor,
        value: Tensor,
        reference: Tensor,
        shapes: Sequence[tuple[int, int]],
        padding: Tensor | None = None,
    ) -> Tensor:
        """Attend from queries to the cells of all levels.

        Parameters
        ----------
        query : Tensor
            ``[B, N, C]``, the position embedding added.
        value : Tensor
            ``[B, S, C]``: the levels' cells one after the other, each level's row by row.
        reference : Tensor
            Of each query on each level, in units of the map's sides: points (x, y)
            ``[B, N, levels, 2]``, offsets then counting cells; or boxes (cx, cy, w, h)
            ``[B, N, levels, 4]``, offsets then counting half sides divided by the points.
        shapes : sequence of (int, int)
            Rows and columns of each level.
        padding : Tensor | None
            ``[B, S]`` bool, true for cells that count as zero.

        Returns
        -------
        Tensor
            ``[B, N, C]``.
        """
        if len(shapes) != self.num_levels:
            raise ValueError(f"shapes: got {len(shapes)} levels, needs {self.num_levels}")
        if reference.shape[-1] not in (2, 4):
            raise ValueError(f"reference: got {reference.shape[-1]} numbers for each, needs 2 or 4")
        return self.read(query, self.project(value, padding), reference, shapes)

    def project(self, value: Tensor, padding: Tensor | None = None) -> Tensor:
        """Return what :meth:`read` reads of cells ``[B, S, C]``, ``[B, S, heads, D]``.

        Those of `padding`, bool ``[B, S]``, become zero.
        """
        value = self.value_proj(value)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0.0)
        return value.unflatten(-1, (self.num_heads, -1))

    def read(
        self,
        query: Tensor,
        value: Tensor,
        reference: Tensor,
        shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """Return what :meth:`forward` does, of any of its queries; `value` is projected."""
        offsets = self.sampling_offsets(query).unflatten(-1, (self.num_heads, -1, 2))
        logits = self.attention_weights(query).unflatten(-1, (self.num_heads, -1))
        read = deformable_attention(value, offsets, logits, reference, shapes=shapes)
        return self.output_proj(read.flatten(2))


remember_forward(DeformableAttention)


def cell_centres(shapes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """Return the centres (x, y) of all cells of all levels, ``[S, 2]`` in 0..1, as float32.

    ``like`` gives the device.
    """
    like = torch.empty(0, device=like.device, dtype=torch.float32)
    return torch.cat([cells(shape, like) / like.new_tensor(shape[::-1]) for shape in shapes])


def cells(shape: tuple[int, int], like: Tensor) -> Tensor:
    """Return the centres (x, y) of the cells of a map of (rows, columns), in cells, ``[S, 2]``.

    ``like`` gives device and dtype.
    """
    y, x = (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5 for size in shape)
    return torch.stack((x.repeat(shape[0]), y.repeat_interleave(shape[1])), -1)
