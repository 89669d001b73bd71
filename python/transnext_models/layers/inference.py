"""Patch embeddings and blocks through :mod:`transnext_ops.branches`, where nothing differs.

In evaluation on a CPU a patch embedding and each branch of a block is one call of the compiled
library. That holds only for modules as they were built: a replaced layer, a hook, or anything that
records or traces takes the ordinary path through the modules.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from transnext_ops import branches

from .attention import AggregatedAttention, GlobalAttention, PixelFocusedAttention
from .conv_glu import ConvolutionalGLU, DepthwiseConv
from .hooks import any_global_hook, hooked

__all__ = ["BlockWeights", "PackedWeights", "branch_features", "pack_block", "pack_patch_embed"]


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


class BlockWeights(NamedTuple):
    """A block's weights as its branches take them."""

    attention: branches.AttentionBranchWeights
    glu: branches.ConvolutionalGLUWeights


class _Held(NamedTuple):
    """A parameter as it was when something was derived from it."""

    owner: Mapping[str, Tensor | None]
    name: str
    parameter: Tensor
    alias: Tensor  # keeps the memory, so that it cannot come back as another tensor's
    version: int


_Packed = TypeVar("_Packed")


class PackedWeights(Generic[_Packed]):
    """What is packed from the weights of a module, at the first call and again after any change.

    It holds for as long as the module has the same children, without hooks, and these the same
    parameters: the same objects, memory and version counters. Edits through ``parameter.data``
    escape the counter; changing between training and evaluation mode, or :meth:`clear`, forgets.

    The content is derived, so copies and pickles are empty.

    Parameters
    ----------
    children : sequence of str
        The module's children that it is packed from.
    pack : callable
        ``pack(module, key)`` packs, for a hashable key: one entry is kept per key.
    """

    def __init__(self, children: Sequence[str], pack: Callable[[Any, Hashable], _Packed]) -> None:
        self._lock = threading.Lock()
        self._children = tuple(children)
        self._pack = pack
        self.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedWeights, (self._children, self._pack)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._modules: list[tuple[dict[str, nn.Module | None], str, nn.Module]] = []
            self._parameters: list[_Held] = []
            self._entries: dict[Hashable, _Packed] = {}

    def get(self, owner: nn.Module, key: Hashable) -> _Packed | None:
        """The entry of `key` for the weights of `owner`; None if it is not as it was built."""
        with self._lock:
            if self._holds():
                entry = self._entries.get(key)
                if entry is not None:
                    return entry
            elif not self._look_at(owner):
                return None
            entries = self._entries
        # Ordinary tensors also under inference_mode: they may later serve a call outside it.
        with torch.inference_mode(False), torch.no_grad():
            entry = self._pack(owner, key)
        with self._lock:
            entries[key] = entry
        return entry

    def _holds(self) -> bool:
        # Plain loops over what was looked up once: this runs at every call of every block.
        if not self._modules or any_global_hook():
            return False
        for children, name, module in self._modules:
            if children[name] is not module or module._forward_hooks or module._forward_pre_hooks:
                return False
        for owner, name, parameter, alias, version in self._parameters:
            if owner[name] is not parameter or parameter._version != version:
                return False
            if parameter.dtype is not alias.dtype or not parameter.is_set_to(alias):
                return False
        return True

    def _look_at(self, owner: nn.Module) -> bool:
        """Remember the modules and parameters; say whether all are known and plain."""
        self._modules, self._parameters, self._entries = [], [], {}
        modules = [(owner, name) for name in self._children]
        found: list[tuple[dict[str, nn.Module | None], str, nn.Module]] = []
        parameters: list[_Held] = []
        while modules:
            parent, name = modules.pop()
            module = parent._modules[name]
            if module is None or not _plain(module):
                return False
            found.append((parent._modules, name, module))
            modules += [(module, child) for child in module._modules]
            for key, parameter in module._parameters.items():
                if parameter is None:
                    continue
                if type(parameter) is not nn.Parameter or parameter.is_inference():
                    return False
                parameters.append(
                    _Held(
                        module._parameters, key, parameter, parameter.detach(), parameter._version
                    )
                )
        if any_global_hook():
            return False
        self._modules, self._parameters = found, parameters
        return True


_PLAIN = frozenset(
    (
        nn.Linear,
        nn.LayerNorm,
        nn.Conv2d,
        nn.Dropout,
        AggregatedAttention,
        PixelFocusedAttention,
        GlobalAttention,
        ConvolutionalGLU,
        DepthwiseConv,
    )
)


def _plain(module: nn.Module) -> bool:
    """Whether a module is a layer of this package or PyTorch as it comes, without hooks."""
    return type(module) in _PLAIN and not hooked(module)


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


def pack_block(block: Any, features: Any) -> BlockWeights:
    """Pack a :class:`Block`'s weights for features of a type."""
    return BlockWeights(
        _pack_attention(block.norm1, block.attn, features),
        _pack_glu(block.norm2, block.mlp, features),
    )


def pack_patch_embed(embed: Any, key: Any) -> branches.PatchEmbedWeights:
    """Pack a :class:`PatchEmbed`'s weights for ``key = (features, channels_last)``."""
    features, channels_last = key
    conv = embed.proj
    return branches.PatchEmbedWeights(
        branches.pack_convolution(conv.weight, features, channels_last=channels_last),
        channels_last,
        _optional(conv.bias, features),
        _norm(embed.norm, features),
    )


def _pack_attention(
    norm: nn.LayerNorm,
    attn: AggregatedAttention | PixelFocusedAttention | GlobalAttention,
    features: torch.dtype,
) -> branches.AttentionBranchWeights:
    layers: list[nn.Linear | nn.Conv2d]
    layers = [attn.qkv] if isinstance(attn, GlobalAttention) else [attn.q, attn.kv, attn.sr]
    weights = [layer.weight.flatten(1) for layer in layers]
    biases = [
        weight.new_zeros(weight.shape[0]) if layer.bias is None else layer.bias
        for layer, weight in zip(layers, weights, strict=True)
    ]
    pool_norm, pool_projections = None, None
    if not isinstance(attn, GlobalAttention):
        pool_norm = _norm(attn.norm, features)
        pool_projections = branches.pack_weight(weights[1], features)
    learnable = {
        name: _parameter(value, features) for name, value in attn.learnable_parameters().items()
    }
    return branches.AttentionBranchWeights(
        _norm(norm, features),
        branches.pack_weight(torch.cat(weights), features),
        _parameter(torch.cat(biases), features),
        pool_norm,
        pool_projections,
        branches.pack_weight(attn.proj.weight, features),
        _optional(attn.proj.bias, features),
        scale=_parameter(attn.scale(), features),
        **learnable,
    )


def _pack_glu(
    norm: nn.LayerNorm, mlp: ConvolutionalGLU, features: torch.dtype
) -> branches.ConvolutionalGLUWeights:
    conv = mlp.dwconv.dwconv
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
