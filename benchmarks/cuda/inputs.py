"""One set of tensors for all candidates of a case: their results can be compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import transnext_ops as ops
from benchmarks.shapes.sizes import BIAS_HIDDEN, HEAD_DIM, WINDOW_SIZE, Shapes


@dataclass(frozen=True)
class AttentionInputs:
    """Aggregated attention's tensors; q, k, v are views of packed projections.

    Attributes
    ----------
    q : Tensor [B, N, C]
    kv, kv_pool : Tensor [B, N, 2 C], [B, P, 2 C]
    scale, query_embedding, local_bias, tokens, token_bias : Tensor
        ``[h]``, ``[h, d]``, ``[h, L]``, ``[h, d, L]``, ``[h, L]``.
    pool_bias : PositionBias
        Extrapolated.
    """

    q: Tensor
    kv: Tensor
    kv_pool: Tensor
    scale: Tensor
    query_embedding: Tensor
    local_bias: Tensor
    tokens: Tensor
    token_bias: Tensor
    pool_bias: ops.PositionBias

    def heads_apart(self) -> list[Tensor]:
        """Return q, k, v, k_pool, v_pool ``[B, N or P, h, d]``."""
        heads = (-1, HEAD_DIM)
        views = [self.q.unflatten(-1, heads)]
        for packed in (self.kv, self.kv_pool):
            views += [half.unflatten(-1, heads) for half in packed.chunk(2, dim=-1)]
        return views


class Numbers:
    """A source of the same numbers at every call of the program, made on the device."""

    def __init__(self, device: torch.device, seed: int = 0) -> None:
        self._device = device
        self._generator = torch.Generator(device).manual_seed(seed)

    def normal(self, *shape: int, spread: float = 1.0) -> Tensor:
        """Return normal numbers of that standard deviation."""
        return torch.randn(shape, generator=self._generator, device=self._device) * spread

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers from 0 to 1."""
        return torch.rand(shape, generator=self._generator, device=self._device)


def attention_inputs(s: Shapes, dtype: torch.dtype, device: torch.device) -> AttentionInputs:
    """Return tensors as a network makes them: activations of ``dtype``, parameters in float32."""
    normal = Numbers(device).normal
    mlp = (
        normal(BIAS_HIDDEN, 2),
        normal(BIAS_HIDDEN),
        normal(s.heads, BIAS_HIDDEN, spread=0.05),
        normal(s.heads),
    )
    bias = ops.position_bias(
        *mlp, grid=s.grid, pool_grid=s.pool_grid, pretrain_grid=s.pretrain_grid
    )
    cells = WINDOW_SIZE**2
    return AttentionInputs(
        normal(s.batch, s.length, s.width).to(dtype),
        normal(s.batch, s.length, 2 * s.width).to(dtype),
        normal(s.batch, s.pool_length, 2 * s.width).to(dtype),
        normal(s.heads).abs() + 1,
        normal(s.heads, HEAD_DIM, spread=0.02),
        normal(s.heads, cells),
        normal(s.heads, HEAD_DIM, cells, spread=0.02),
        normal(s.heads, cells, spread=0.1),
        bias,
    )
