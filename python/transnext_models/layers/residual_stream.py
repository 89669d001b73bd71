"""Blocks of a stage on a GPU in mixed precision, in fewer operators and bytes than by layers.

Three quarters of a model's time on a GPU are PyTorch's operators around ours, most of them bound by
memory: casts of tokens and weights, residual sums, norms. Here the blocks of a stage run together:

- tokens stay in float32 between blocks, and a branch is added to them, and the sum normalised and
  cast for the next branch, by one operator (:func:`transnext_ops.add_layer_norm`), also across the
  end of a block;
- weights are cast together (:mod:`.cast_weights`), once for a frozen model;
- queries, keys, values and the input of pooling are one product, and their gradients are written
  into that of the product;
- biases are added by the operator behind a product, whose backward then sums their gradients.

That holds for blocks as they were built; whatever is attached to a layer, or watches, is met by
:class:`Block`, which calls every layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from transnext_ops import add_layer_norm, conv_glu, gelu_pool, unpack

from .attention import GlobalAttention
from .block import Block
from .calls import may_stand_in, recorded, runs_on_cpu
from .cast_weights import CastWeights, cast_weights
from .fused import is_plain_block
from .grids import StageGrids
from .plain import plain, remember_forward

__all__ = ["run_blocks"]

remember_forward(Block)

_HALF = (torch.float16, torch.bfloat16)


def run_blocks(
    blocks: Sequence[Block], x: Tensor, grids: StageGrids, *, checkpointed: bool = False
) -> Tensor:
    """Return what `blocks`, one after the other, make of tokens ``x [B, N, C]`` of their stage.

    `checkpointed` blocks keep nothing for their backward pass but their input.
    """
    if checkpointed and torch.is_grad_enabled():
        for block in blocks:
            x = checkpoint(block, x, grids, use_reentrant=False)
        return x
    dtype = _branch_type(x)
    if dtype is None or len(blocks) == 0 or not all(_is_plain(block) for block in blocks):
        for block in blocks:
            x = block(x, grids)
        return x
    with torch.autocast(x.device.type, enabled=False):  # everything is in its type
        return _Stream(x, grids, dtype).through(blocks)


def _branch_type(x: Tensor) -> torch.dtype | None:
    """Return the 16-bit type of the branches; None where there is none, or calls are seen."""
    if not may_stand_in(x) or recorded() or runs_on_cpu(x) or x.dim() != 3 or x.numel() == 0:
        return None
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    return dtype if dtype in _HALF and x.dtype != torch.float64 else None


def _is_plain(block: Block) -> bool:
    """Whether a block is as it was built, and keeps its attention weights to itself."""
    if not (plain(block, Block) and is_plain_block(block)):
        return False
    return not (block.attn.training and block.attn.attn_drop > 0)  # which autocast computes


class _Stream:
    """Tokens on their way through blocks, and their norm for the next branch."""

    def __init__(self, x: Tensor, grids: StageGrids, dtype: torch.dtype) -> None:
        self._x = x.float()
        self._grids = grids
        self._dtype = dtype
        self._type = x.dtype
        self._normed = x

    def through(self, blocks: Sequence[Block]) -> Tensor:
        """Return the tokens behind the blocks, in their type."""
        weights = cast_weights(blocks, self._dtype)
        nothing = torch.zeros((), dtype=self._dtype, device=self._x.device).expand_as(self._x)
        self._add((nothing, None), None, blocks[0].norm1, blocks[0])
        following = [*(block.norm1 for block in blocks[1:]), None]
        for block, cast, next_norm in zip(blocks, weights, following, strict=True):
            scales = block.drop_path.scales(self._x, 2)
            self._add(self._attention(block, cast), scales[0], block.norm2, block)
            self._add(self._mixer(block, cast, next_norm is None), scales[1], next_norm, block)
        return self._x.to(self._type)

    def _add(
        self,
        product: tuple[Tensor, Tensor | None],
        scale: Tensor | None,
        norm: nn.LayerNorm | None,
        block: Block,
    ) -> None:
        """Add a branch, and normalise for the next one, if there is one."""
        branch, bias = product
        if norm is not None:
            self._x, self._normed = add_layer_norm(
                self._x, branch, norm.weight, norm.bias, epsilon=norm.eps, branch_scale=scale,
                branch_bias=bias, backend=block.mlp.backend,
            )  # fmt: skip
        elif scale is None:
            self._x = self._x + branch
        else:
            self._x = torch.addcmul(self._x, branch, scale[:, None, None])

    def _attention(self, block: Block, cast: CastWeights) -> tuple[Tensor, Tensor | None]:
        attn, grids = block.attn, self._grids
        parts = F.linear(self._normed, cast.projections, cast.projections_bias)
        heads = (attn.num_heads, attn.head_dim)
        if isinstance(attn, GlobalAttention):
            q, k, v = unpack(parts, [heads] * 3)
            out = attn.attend(q, k, v, grids)
        else:
            q, k, v, to_pool = unpack(parts, [heads, heads, heads, self._x.shape[2:]])
            pooled = gelu_pool(
                to_pool, grid=grids.grid, pool_grid=grids.pool_grid, backend=attn.backend
            )
            assert cast.pool_norm is not None
            assert cast.pool_projections is not None
            pooled = F.layer_norm(pooled, pooled.shape[2:], *cast.pool_norm, attn.norm.eps)
            pooled = F.linear(pooled, cast.pool_projections, cast.pool_projections_bias)
            k_pool, v_pool = unpack(pooled, [heads] * 2)
            out = attn.attend(q, k, v, k_pool, v_pool, grids)
        later = not _drops(attn.proj_drop)
        out, bias = _product(out.flatten(2), cast.out, attn.proj.bias, later=later)
        return attn.proj_drop(out), bias

    def _mixer(
        self, block: Block, cast: CastWeights, is_last: bool
    ) -> tuple[Tensor, Tensor | None]:
        mlp, conv = block.mlp, block.mlp.dwconv.dwconv
        x, bias = _product(self._normed, cast.fc1, mlp.fc1.bias)
        x = conv_glu(
            x, conv.weight, conv.bias, grid=self._grids.grid, x_bias=bias, backend=mlp.backend
        )
        later = not (is_last or _drops(mlp.drop))
        out, bias = _product(mlp.drop(x), cast.fc2, mlp.fc2.bias, later=later)
        return mlp.drop(out), bias


def _drops(dropout: nn.Dropout) -> bool:
    return dropout.training and dropout.p > 0


def _product(
    x: Tensor, cast: tuple[Tensor, Tensor], bias: Tensor, later: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Return a Linear of x, and its bias if the operator behind it is to add that.

    That may be `later`, and is where the bias is in the type that operators take it in.
    """
    if later and bias.dtype == torch.float32:
        return F.linear(x, cast[0]), bias
    return F.linear(x, *cast), None
