"""The attention modules of TransNeXt: aggregated, pixel-focused and global (paper section 3.1).

Each takes and returns tokens ``[B, N, C]``; projections are viewed as ``[B, N, heads, head_dim]``
without a copy and handed to :mod:`transnext_ops`, which does everything between the projections.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

import transnext_ops as ops
from transnext_ops import (
    aggregated_attention,
    bias_coordinates,
    bias_from_values,
    gelu_pool,
    global_attention,
)

from .attention_dropout import attention_with_dropout
from .calls import is_proxy, may_stand_in
from .derived import DerivesFromWeights
from .grids import StageGrids, map_grid, map_to_tokens, tokens_to_map
from .length_scale import aggregated_attention_at_length, global_attention_at_length
from .linear import linear, linear_layer
from .plain import plain_convolution, plain_linear

__all__ = ["AggregatedAttention", "GlobalAttention", "PixelFocusedAttention"]

_BIAS_HIDDEN = 512
# Softmax temperature starts so that softplus(temperature) = 1 / 0.24.
_INITIAL_TEMPERATURE = math.log(math.exp(1 / 0.24) - 1)

# One node each in a graph of torch.fx, whatever the sizes.
for _name in (
    "aggregated_attention",
    "aggregated_attention_at_length",
    "attention_with_dropout",
    "bias_coordinates",
    "bias_from_values",
    "gelu_pool",
    "global_attention",
    "global_attention_at_length",
):
    torch.fx.wrap(_name)


@torch.fx.wrap
def _softplus(temperature: Tensor) -> Tensor:
    """Softplus in float32 at least."""
    if temperature.dtype not in (torch.float32, torch.float64):
        temperature = temperature.float()
    return F.softplus(temperature)


def _without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Turn autocast off: a bias that it rounded would differ from the operator's."""
    return nullcontext() if is_proxy(x) else torch.autocast(x.device.type, enabled=False)


class _Attention(DerivesFromWeights):
    """The parts that all three share: temperature, position bias, output projection.

    Attributes
    ----------
    backend : str | None
        Operator backend, None for the one in force at the call.
    training_keys : int | None
        Pooled (or, for global attention, all) keys that the logits' length scale counts; None for
        those of the call, as published.
    projections, own_parameters : tuple of str
        Names of the layers that project the tokens, and of the parameters that no layer holds.
    """

    projections: ClassVar[tuple[str, ...]]
    own_parameters: ClassVar[tuple[str, ...]] = ("temperature",)
    window_size: int | None

    def __init__(self, dim: int, num_heads: int, attn_drop: float, proj_drop: float) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim: got {dim}, needs a multiple of num_heads={num_heads}")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.temperature = nn.Parameter(torch.full((num_heads, 1, 1), _INITIAL_TEMPERATURE))
        self.cpb_fc1 = nn.Linear(2, _BIAS_HIDDEN)
        self.cpb_fc2 = nn.Linear(_BIAS_HIDDEN, num_heads)
        self.proj = nn.Linear(dim, dim)
        self.attn_drop = attn_drop
        self.proj_drop = nn.Dropout(proj_drop)
        self.backend: str | None = None
        self.training_keys: int | None = None

    def keeps_training_length(self, grids: StageGrids) -> bool:
        """Whether the length scale is another than that of these grids."""
        pooled = grids.pool_grid[0] * grids.pool_grid[1]
        return self.training_keys is not None and self.training_keys != pooled

    def scale(self) -> Tensor:
        """Softplus of the temperature, ``[heads]``, in float32 at least."""
        return _softplus(self.temperature.flatten())

    def position_bias(self, grids: StageGrids) -> ops.PositionBias:
        """Return the continuous position bias of these grids, cached in evaluation.

        Source: TransNeXt paper, section 3.1.3.
        """
        fc1, fc2 = self.cpb_fc1, self.cpb_fc2
        options = {name: getattr(grids, name) for name in StageGrids._fields}
        if not (may_stand_in(grids) and self.has_plain_bias_layers()):
            coordinates = bias_coordinates(self.temperature, **options)
            with _without_autocast(coordinates):
                values = fc2(F.relu(fc1(coordinates)))
            return bias_from_values(values, **options)
        weights = [fc1.weight, fc1.bias, fc2.weight, fc2.bias]

        def compute() -> ops.PositionBias:
            return ops.position_bias(*weights, **options, backend=self.backend)

        if self.training:
            return compute()
        # A table computed on one CUDA stream may not be ready on another, and backends share none.
        device = weights[0].device
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None
        key = (grids, self.backend or ops.get_backend(), stream)
        return self.derived.get(weights, key, compute)

    def has_plain_bias_layers(self) -> bool:
        """Whether the position bias's layers are those that its operator computes."""
        layers = (self._modules["cpb_fc1"], self._modules["cpb_fc2"])
        return all(
            plain_linear(layer) and layer._parameters["bias"] is not None  # type: ignore[union-attr]
            for layer in layers
        )

    def heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split ``[B, N, parts * C]`` into ``parts`` strided views ``[B, N, heads, head_dim]``."""
        return x.unflatten(-1, (parts, self.num_heads, self.head_dim)).unbind(2)

    def _project(self, x: Tensor) -> Tensor:
        """From ``[B, N, heads, head_dim]`` to the output ``[B, N, C]``."""
        return self.proj_drop(linear_layer(self.proj, x.flatten(2)))


class PixelFocusedAttention(_Attention):
    """Each token attends, in one softmax, to its local window and to pooled tokens of the image.

    The paper's earlier form of aggregated attention (section 3.1.1), kept for ablations.

    Parameters
    ----------
    dim, num_heads : int
        Width and number of heads.
    window_size : int
        Side of the local window.
    qkv_bias : bool
        Whether the query and key-value projections have a bias.
    attn_drop, proj_drop : float
        Dropout rates of the attention weights and of the output.
    """

    projections = ("q", "kv")
    own_parameters: ClassVar[tuple[str, ...]] = ("temperature", "relative_pos_bias_local")
    window_size: int

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int = 3,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, attn_drop, proj_drop)
        self.window_size = window_size
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.sr = nn.Conv2d(dim, dim, kernel_size=1)
        self.norm = nn.LayerNorm(dim)  # eps 1e-5, unlike the block norms
        self.add_parameters()
        self.reset_parameters()

    def add_parameters(self) -> None:
        """Add the parameters that belong to no submodule, not initialised."""
        self.relative_pos_bias_local = nn.Parameter(
            torch.empty(self.num_heads, self.window_size**2)
        )

    def reset_parameters(self) -> None:
        """Initialise the parameters that belong to no submodule."""
        nn.init.trunc_normal_(self.relative_pos_bias_local, std=0.0004)

    def forward(self, x: Tensor, grids: StageGrids) -> Tensor:
        """``x [B, N, C]``, tokens of ``grids.grid``, to ``[B, N, C]``."""
        q = linear_layer(self.q, x).unflatten(-1, (self.num_heads, self.head_dim))
        k, v = self.heads(linear_layer(self.kv, x), 2)
        k_pool, v_pool = self.heads(linear_layer(self.kv, self.pool(x, grids)), 2)
        return self._project(self.attend(q, k, v, k_pool, v_pool, grids))

    def pool(self, x: Tensor, grids: StageGrids) -> Tensor:
        """Pooled tokens ``[B, P, C]``; the 1x1 convolution is a Linear on tokens."""
        grid, sr = grids.grid, self.sr
        if plain_convolution(sr, 1, 1, depthwise=False) and may_stand_in(x):
            x = linear(x, sr.weight.flatten(1), sr.bias)
        else:
            y = sr(tokens_to_map(x, grid))
            grid, x = map_grid(y), map_to_tokens(y)
        return self.norm(gelu_pool(x, grid=grid, pool_grid=grids.pool_grid, backend=self.backend))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, k_pool: Tensor, v_pool: Tensor, grids: StageGrids
    ) -> Tensor:
        """From projections ``[B, N, heads, head_dim]``, those pooled too, to that shape."""
        arguments: dict[str, Any] = {
            "grid": grids.grid,
            "pool_grid": grids.pool_grid,
            "window_size": self.window_size,
            "scale": self.scale(),
            "pool_bias": self.position_bias(grids),
            "backend": self.backend,
            **self.learnable_parameters(),
        }
        if self.training and self.attn_drop > 0:
            return attention_with_dropout(
                q,
                k,
                v,
                k_pool,
                v_pool,
                dropout=self.attn_drop,
                training_keys=self.training_keys,
                **arguments,
            )
        if self.training_keys is not None:
            arguments["training_keys"] = self.training_keys
            return aggregated_attention_at_length(q, k, v, k_pool, v_pool, **arguments)
        return aggregated_attention(q, k, v, k_pool, v_pool, **arguments)

    def learnable_parameters(self) -> dict[str, Tensor]:
        """Return the operator's learnable arguments but for the scale and the position bias."""
        return {"local_bias": self.relative_pos_bias_local}


class AggregatedAttention(PixelFocusedAttention):
    """Pixel-focused attention with a learnable query and learnable, positional value weights.

    Source: TransNeXt paper, section 3.1.2. Parameters are those of :class:`PixelFocusedAttention`.
    """

    own_parameters = (
        *PixelFocusedAttention.own_parameters,
        "query_embedding",
        "learnable_tokens",
        "learnable_bias",
    )

    def add_parameters(self) -> None:
        """Add the parameters that belong to no submodule, not initialised."""
        super().add_parameters()
        heads, cells = self.num_heads, self.window_size**2
        self.query_embedding = nn.Parameter(torch.empty(heads, 1, self.head_dim))
        self.learnable_tokens = nn.Parameter(torch.empty(heads, self.head_dim, cells))
        self.learnable_bias = nn.Parameter(torch.empty(heads, 1, cells))

    def reset_parameters(self) -> None:
        """Initialise the parameters that belong to no submodule."""
        super().reset_parameters()
        nn.init.trunc_normal_(self.query_embedding, std=0.02)
        nn.init.trunc_normal_(self.learnable_tokens, std=0.02)
        nn.init.zeros_(self.learnable_bias)

    def learnable_parameters(self) -> dict[str, Tensor]:
        """Return the operator's learnable arguments but for the scale and the position bias."""
        return {
            **super().learnable_parameters(),
            "query_embedding": self.query_embedding.squeeze(1),
            "tokens": self.learnable_tokens,
            "token_bias": self.learnable_bias.squeeze(1),
        }


class GlobalAttention(_Attention):
    """Full attention with a learnable query and position bias, for stages without pooling.

    Parameters are those of :class:`PixelFocusedAttention`, less the window.
    """

    projections = ("qkv",)
    own_parameters = ("temperature", "query_embedding")
    window_size: None

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, attn_drop, proj_drop)
        self.window_size = None
        self.query_embedding = nn.Parameter(torch.empty(num_heads, 1, self.head_dim))
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        nn.init.trunc_normal_(self.query_embedding, std=0.02)

    def forward(self, x: Tensor, grids: StageGrids) -> Tensor:
        """``x [B, N, C]``, tokens of ``grids.grid``, to ``[B, N, C]``."""
        q, k, v = self.heads(linear_layer(self.qkv, x), 3)
        return self._project(self.attend(q, k, v, grids))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, grids: StageGrids) -> Tensor:
        """From queries, keys and values ``[B, N, heads, head_dim]`` to that shape."""
        scale, bias = self.scale(), self.position_bias(grids)
        if self.training and self.attn_drop > 0:
            return attention_with_dropout(
                q,
                None,
                None,
                k,
                v,
                grid=grids.grid,
                pool_grid=grids.grid,
                window_size=0,
                scale=scale,
                dropout=self.attn_drop,
                pool_bias=bias,
                query_embedding=self.query_embedding.squeeze(1),
                training_keys=self.training_keys,
            )
        arguments: dict[str, Any] = {
            "grid": grids.grid,
            "scale": scale,
            "query_embedding": self.query_embedding.squeeze(1),
            "bias": bias,
            "backend": self.backend,
        }
        if self.training_keys is not None:
            arguments["training_keys"] = self.training_keys
            return global_attention_at_length(q, k, v, **arguments)
        return global_attention(q, k, v, **arguments)

    def learnable_parameters(self) -> dict[str, Tensor]:
        """Return the operator's learnable arguments but for the scale and the position bias."""
        return {"query_embedding": self.query_embedding.squeeze(1)}
