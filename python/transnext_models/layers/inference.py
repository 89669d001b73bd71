"""A block's two residual branches through :mod:`transnext_ops.branches`, where nothing differs.

In evaluation on a CPU each branch is one call of the compiled library. That holds only for a block
as it was built: a replaced layer, a hook, or anything that records or traces takes the ordinary
path through the modules.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from transnext_ops import branches

from .attention import AggregatedAttention, GlobalAttention, PixelFocusedAttention
from .cache import WeightsCache
from .conv_glu import ConvolutionalGLU

__all__ = ["BranchWeights", "as_built", "branch_features"]


def branch_features(x: Tensor) -> torch.dtype | None:
    """The type of a branch's features for tokens `x` under the autocast in force.

    None where the branches cannot stand in for the modules: gradients are recorded, the call is
    traced, or autocast would change the type of float64 tokens.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return None
    if type(x) is not Tensor or x.device.type != "cpu":
        return None
    if not torch.is_autocast_enabled("cpu"):
        return x.dtype
    return torch.get_autocast_dtype("cpu") if x.dtype != torch.float64 else None


def as_built(*modules: nn.Module) -> bool:
    """Whether these modules are plain layers of this package or PyTorch, without hooks."""
    for module in modules:  # a plain loop: this runs at every call
        if type(module) not in _PLAIN or module._forward_hooks or module._forward_pre_hooks:
            return False
        if "forward" in module.__dict__:
            return False
    return True


_PLAIN = frozenset(
    (
        nn.Linear,
        nn.LayerNorm,
        nn.Conv2d,
        AggregatedAttention,
        PixelFocusedAttention,
        GlobalAttention,
        ConvolutionalGLU,
    )
)


def _parameter(tensor: Tensor, features: torch.dtype) -> Tensor:
    """A parameter in the compute type of `features`, contiguous."""
    compute = torch.float64 if features == torch.float64 else torch.float32
    return tensor.detach().to(compute).contiguous()


def _optional(tensor: Tensor | None, features: torch.dtype) -> Tensor | None:
    return None if tensor is None else _parameter(tensor, features)


def _norm(norm: nn.LayerNorm, features: torch.dtype) -> branches.NormWeights:
    return branches.NormWeights(
        _parameter(norm.weight, features), _parameter(norm.bias, features), norm.eps
    )


class BranchWeights:
    """The packed weights of a block, made at the first call and again when a weight changes."""

    def __init__(self) -> None:
        self.attention_cache = WeightsCache()
        self.glu_cache = WeightsCache()

    def clear(self) -> None:
        """Forget everything."""
        self.attention_cache.clear()
        self.glu_cache.clear()

    def attention(
        self,
        norm: nn.LayerNorm,
        attn: AggregatedAttention | PixelFocusedAttention | GlobalAttention,
        features: torch.dtype,
    ) -> branches.AttentionBranchWeights | None:
        """The attention branch's weights, None if they cannot be kept."""
        layers: list[nn.Linear | nn.Conv2d]
        layers = [attn.qkv] if isinstance(attn, GlobalAttention) else [attn.q, attn.kv, attn.sr]
        pool_norm = None if isinstance(attn, GlobalAttention) else attn.norm
        norms = [norm] if pool_norm is None else [norm, pool_norm]
        parameters = _parameters(*layers, *norms, attn.proj)

        def compute() -> branches.AttentionBranchWeights:
            weights = [layer.weight.flatten(1) for layer in layers]
            biases = [
                weight.new_zeros(weight.shape[0]) if layer.bias is None else layer.bias
                for layer, weight in zip(layers, weights, strict=True)
            ]
            return branches.AttentionBranchWeights(
                _norm(norm, features),
                branches.pack_weight(torch.cat(weights), features),
                _parameter(torch.cat(biases), features),
                None if pool_norm is None else _norm(pool_norm, features),
                None if pool_norm is None else branches.pack_weight(weights[1], features),
                branches.pack_weight(attn.proj.weight, features),
                _optional(attn.proj.bias, features),
            )

        if not WeightsCache.usable(parameters):
            return None
        entry = self.attention_cache.get(parameters, features, compute)
        return cast(branches.AttentionBranchWeights, entry)

    def glu(
        self, norm: nn.LayerNorm, mlp: ConvolutionalGLU, features: torch.dtype
    ) -> branches.ConvolutionalGLUWeights | None:
        """The channel mixer's weights, None if they cannot be kept."""
        conv = mlp.dwconv.dwconv
        parameters = _parameters(norm, mlp.fc1, conv, mlp.fc2)

        def compute() -> branches.ConvolutionalGLUWeights:
            values, gates = mlp.fc1.weight.chunk(2)
            return branches.ConvolutionalGLUWeights(
                _norm(norm, features),
                branches.pack_weight(values, features),
                branches.pack_weight(gates, features),
                _optional(mlp.fc1.bias, features),
                _parameter(conv.weight, features),
                _optional(conv.bias, features),
                branches.pack_weight(mlp.fc2.weight, features),
                _optional(mlp.fc2.bias, features),
            )

        if not WeightsCache.usable(parameters):
            return None
        entry = self.glu_cache.get(parameters, features, compute)
        return cast(branches.ConvolutionalGLUWeights, entry)


def _parameters(*modules: nn.Module) -> list[Tensor]:
    # Directly, since Module.parameters() takes microseconds and this runs at every call.
    return [p for module in modules for p in module._parameters.values() if p is not None]
