"""A transformer block around one operator call: python examples/attention_in_your_network.py"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import transnext_ops as ops


class FovealBlock(nn.Module):
    """Each token attends to its 3×3 neighbourhood and to a pooled view of the whole image."""

    def __init__(self, dim: int, heads: int, pool_grid: tuple[int, int]) -> None:
        super().__init__()
        self.heads, self.pool_grid = heads, pool_grid
        self.norm, self.pool_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.temperature = nn.Parameter(torch.full((heads,), 4.0))

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return ``[B, H·W, dim]`` for tokens of that shape."""
        x = self.norm(tokens)
        pooled = self.pool_norm(ops.gelu_pool(x, grid=grid, pool_grid=self.pool_grid))
        q = self.q(x).unflatten(-1, (self.heads, -1))
        k, v = self.kv(x).unflatten(-1, (2, self.heads, -1)).unbind(2)
        k_pool, v_pool = self.kv(pooled).unflatten(-1, (2, self.heads, -1)).unbind(2)
        out = ops.pixel_focused_attention(
            q, k, v, k_pool, v_pool, grid=grid, pool_grid=self.pool_grid, window_size=3,
            scale=F.softplus(self.temperature),
        )  # fmt: skip
        return tokens + self.proj(out.flatten(2))


if __name__ == "__main__":
    block = FovealBlock(dim=96, heads=4, pool_grid=(4, 4))
    block(torch.randn(2, 32 * 32, 96), grid=(32, 32)).square().mean().backward()
    print("gradient of the temperatures:", block.temperature.grad)
