"""Decide whether a call takes the fused path: patch embeddings, blocks, norms, heads, here alone.

In evaluation on a CPU a patch embedding, each of a block's two residual branches, the norm behind a
stage's blocks, and a classifier's head is one call of the compiled library
(:mod:`transnext_ops.fused_blocks`). That holds for layers as they were built. Whatever is attached
to one or put in its place, records gradients, traces or watches operators is met by the ordinary
path, which calls every layer.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from transnext_ops import fused_blocks
from transnext_ops.schema import compute_dtype

from .attention import AggregatedAttention, GlobalAttention, PixelFocusedAttention
from .calls import runs_on_cpu
from .conv_glu import ConvolutionalGLU
from .derived import Derived
from .drop import DropPath
from .grids import StageGrids
from .plain import (
    plain,
    plain_convolution,
    plain_linear,
    plain_norm,
    plain_parameter,
    remember_forward,
)

_OF_THE_POSITION_BIAS = ("cpb_fc1", "cpb_fc2")  # which has a cache of its own

__all__ = [
    "BlockWeights",
    "features_of",
    "fused_block",
    "fused_head",
    "fused_norm",
    "fused_patch_embed",
    "is_channels_last",
    "is_plain_block",
]

remember_forward(AggregatedAttention, PixelFocusedAttention, GlobalAttention, DropPath)


class _Module(Protocol):
    training: bool
    _modules: dict[str, nn.Module | None]
    _parameters: dict[str, nn.Parameter | None]


class BlockLike(_Module, Protocol):
    """The attributes of a `Block` that are read here; `Block` imports this module."""

    norm1: nn.LayerNorm
    attn: PixelFocusedAttention | AggregatedAttention | GlobalAttention
    norm2: nn.LayerNorm
    mlp: ConvolutionalGLU
    drop_path: DropPath
    derived: Derived


class PatchEmbedLike(_Module, Protocol):
    """The attributes of a `PatchEmbed` that are read here; it imports this module."""

    proj: nn.Conv2d
    norm: nn.LayerNorm
    backend: str | None
    derived: Derived


class BlockWeights(NamedTuple):
    """A block's weights as its two branches take them, and the type of their features."""

    attention: fused_blocks.AttentionResidualWeights
    glu: fused_blocks.ConvGluResidualWeights
    features: torch.dtype


def fused_block(block: BlockLike, x: Tensor, grids: StageGrids) -> BlockWeights | None:
    """Return the packed weights of a block that may take tokens `x` of `grids` in two calls.

    None if it may not, or if its weights do not fit each other; calling the layers then raises.
    """
    features = None if block.training else features_of(x)
    if features is None or not is_plain_block(block) or not _drops_nothing(block):
        return None
    attn, mlp = block.attn, block.mlp
    if attn.keeps_training_length(grids):
        return None
    if attn.backend != mlp.backend or fused_blocks.unsupported(
        x, head_dim=attn.head_dim, window_size=attn.window_size, backend=attn.backend
    ):
        return None
    weights = _parameters(block)
    if not _are_alike(weights, x):
        return None
    pool_eps = None if isinstance(attn, GlobalAttention) else attn.norm.eps
    precision = fused_blocks.product_precision(features)
    key = (features, precision, block.norm1.eps, block.norm2.eps, pool_eps)
    return block.derived.get(weights, key, lambda: _pack_block(block, features, precision))


def fused_patch_embed(
    embed: PatchEmbedLike, x: Tensor
) -> tuple[fused_blocks.PatchEmbedWeights, torch.dtype] | None:
    """Return the packed weights of a patch embedding that may take a map `x` in one call.

    The second value is the type of its products. None if it may not.
    """
    features = None if embed.training else features_of(x)
    if features is None:
        return None
    conv = embed._modules["proj"]
    if not plain_norm(embed._modules["norm"]) or not isinstance(conv, nn.Conv2d):
        return None
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    if kernel % 2 == 0 or not plain_convolution(conv, kernel, stride, depthwise=False):
        return None
    if fused_blocks.unsupported(x, backend=embed.backend):
        return None
    weights = _parameters(embed)
    if not _are_alike(weights, x) or embed.norm.weight.shape != (embed.proj.weight.shape[0],):
        return None
    channels_last = is_channels_last(x)
    precision = fused_blocks.product_precision(features)
    packed = embed.derived.get(
        weights,
        (features, precision, channels_last, embed.norm.eps),
        lambda: _pack_patch_embed(embed, features, precision, channels_last),
    )
    return packed, features


def fused_norm(
    norm: nn.LayerNorm, x: Tensor, backend: str | None
) -> fused_blocks.NormWeights | None:
    """Return the weights of a stage's norm that may take tokens ``x [B, N, C]`` in its call.

    None if it may not. They are too few to be worth a cache.
    """
    if norm.training or features_of(x) is None or not plain_norm(norm):
        return None
    if fused_blocks.unsupported(x, op="token_norm", backend=backend):
        return None
    weight, bias = norm.weight, norm.bias
    if weight.dtype != bias.dtype or weight.dtype not in (x.dtype, compute_dtype(x.dtype)):
        return None  # which PyTorch refuses
    if any(each.device != x.device or each.shape != x.shape[2:] for each in (weight, bias)):
        return None
    return _norm(norm, x.dtype)


def fused_head(
    head: nn.Module, x: Tensor, backend: str | None
) -> tuple[Tensor, Tensor | None] | None:
    """Return weight and bias of a classifier that may take the mean of ``x [B, N, C]`` in one call.

    None if it may not.
    """
    if features_of(x) is not x.dtype or not plain_linear(head):
        return None
    if fused_blocks.unsupported(x, op="pooled_linear", backend=backend):
        return None
    weights = [each for each in head._parameters.values() if each is not None]
    if any(each.dtype is not x.dtype or each.device != x.device for each in weights):
        return None
    weight, *bias = weights
    if weight.dim() != 2 or weight.shape[1] != x.shape[2]:
        return None
    if any(each.shape != weight.shape[:1] for each in bias):
        return None
    return weight, bias[0] if bias else None


def is_plain_block(block: BlockLike) -> bool:
    """Whether every layer in a block is as it was built, and nothing is attached to any."""
    parts = block._modules
    return (
        plain_norm(parts["norm1"])
        and plain_norm(parts["norm2"])
        and plain(parts["drop_path"], DropPath)
        and _is_plain_attention(parts["attn"])
        and _is_plain_mixer(parts["mlp"])
    )


def _is_plain_attention(attn: nn.Module | None) -> bool:
    kind = type(attn)
    if kind not in (AggregatedAttention, PixelFocusedAttention, GlobalAttention):
        return False
    assert attn is not None
    if not plain(attn, kind) or not all(
        plain_parameter(attn, name) for name in kind.own_parameters
    ):
        return False
    parts = attn._modules
    # The layers of the position bias may be anything: the operator reads their output.
    if not all(plain_linear(parts[name]) for name in ("proj", *kind.projections)):
        return False
    if not plain(parts["proj_drop"], nn.Dropout):
        return False
    return kind is GlobalAttention or (
        plain_convolution(parts["sr"], 1, 1, depthwise=False) and plain_norm(parts["norm"])
    )


def _is_plain_mixer(mlp: nn.Module | None) -> bool:
    return plain(mlp, ConvolutionalGLU) and ConvolutionalGLU.has_plain_layers(mlp)  # type: ignore[arg-type]


def _drops_nothing(block: BlockLike) -> bool:
    """Whether dropout is off in every module: users may put one alone into training mode."""
    attn = block.attn
    return not (
        (block.drop_path.training and block.drop_path.rate > 0)
        or (attn.training and attn.attn_drop > 0)
        or any(drop.training and drop.p > 0 for drop in (attn.proj_drop, block.mlp.drop))
    )


def is_channels_last(x: Tensor) -> bool:
    """Say which axis of a map's memory is contiguous: its channels, or an image's columns."""
    return x.stride(1) <= x.stride(3)


def features_of(x: Tensor) -> torch.dtype | None:
    """Return the type of the fused blocks' features for `x` under the autocast in force.

    None where gradients are recorded, the call is traced, or autocast would change the type of
    float64 tokens.
    """
    if torch.is_grad_enabled() or not runs_on_cpu(x):
        return None
    if not torch.is_autocast_enabled("cpu"):
        return x.dtype
    return torch.get_autocast_dtype("cpu") if x.dtype != torch.float64 else None


def _parameters(module: _Module) -> list[Tensor]:
    """Return all parameters that the fused call of a module reads, in a fixed order."""
    found: list[Tensor] = [value for value in module._parameters.values() if value is not None]
    for name, child in module._modules.items():
        if child is not None and name not in _OF_THE_POSITION_BIAS:
            found += _parameters(child)
    return found


def _are_alike(weights: list[Tensor], x: Tensor) -> bool:
    """Whether PyTorch's own layers would take the weights.

    They must be on x's device, and of its type unless autocast converts them.
    """
    dtype = None if torch.is_autocast_enabled("cpu") else x.dtype
    device = x.device
    return all(
        weight.device == device and (dtype is None or weight.dtype is dtype) for weight in weights
    )


# Packing ----------------------------------------------------------------------------------------


def _parameter(tensor: Tensor, features: torch.dtype) -> Tensor:
    """Return a parameter in the compute type of `features`, contiguous, in memory of its own."""
    return tensor.detach().to(compute_dtype(features), copy=True).contiguous()


def _optional(tensor: Tensor | None, features: torch.dtype) -> Tensor | None:
    return None if tensor is None else _parameter(tensor, features)


def _norm(norm: nn.LayerNorm, features: torch.dtype) -> fused_blocks.NormWeights:
    return fused_blocks.NormWeights(
        _parameter(norm.weight, features), _parameter(norm.bias, features), norm.eps
    )


def _pack_patch_embed(
    embed: PatchEmbedLike,
    features: torch.dtype,
    precision: fused_blocks.Precision,
    channels_last: bool,
) -> fused_blocks.PatchEmbedWeights:
    conv = embed.proj
    return fused_blocks.PatchEmbedWeights(
        fused_blocks.pack_convolution(
            conv.weight, features, channels_last=channels_last, precision=precision
        ),
        channels_last,
        _optional(conv.bias, features),
        _norm(embed.norm, features),
    )


def _pack_block(
    block: BlockLike, features: torch.dtype, precision: fused_blocks.Precision
) -> BlockWeights | None:
    """Pack a block's weights; None if their shapes do not fit each other."""
    if not _fits(block):
        return None
    attn, mlp = block.attn, block.mlp
    return BlockWeights(
        _pack_attention(block.norm1, attn, features, precision),
        _pack_glu(block.norm2, mlp, features, precision),
        features,
    )


def _fits(block: BlockLike) -> bool:
    """Whether the shapes are those of a block, which pruning may have made smaller."""
    attn, mlp = block.attn, block.mlp
    dim, hidden = block.norm1.weight.shape[0], mlp.fc2.weight.shape[1]
    layers: list[tuple[Any, tuple[int, ...]]] = [
        (block.norm2, (dim,)),
        (attn.proj, (dim, dim)),
        (mlp.fc1, (2 * hidden, dim)),
        (mlp.dwconv.dwconv, (hidden, 1, 3, 3)),
        (mlp.fc2, (dim, hidden)),
    ]
    if isinstance(attn, GlobalAttention):
        layers += [(attn.qkv, (3 * dim, dim))]
    else:
        layers += [(attn.q, (dim, dim)), (attn.kv, (2 * dim, dim))]
        layers += [(attn.sr, (dim, dim, 1, 1)), (attn.norm, (dim,))]
    return (
        attn.num_heads * attn.head_dim == dim
        and attn.temperature.numel() == attn.num_heads
        and all(layer.weight.shape == shape for layer, shape in layers)
        and all(layer.bias is None or layer.bias.shape == shape[:1] for layer, shape in layers)
    )


def _pack_attention(
    norm: nn.LayerNorm,
    attn: AggregatedAttention | PixelFocusedAttention | GlobalAttention,
    features: torch.dtype,
    precision: fused_blocks.Precision,
) -> fused_blocks.AttentionResidualWeights:
    pack = functools.partial(fused_blocks.pack_weight, dtype=features, precision=precision)
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
        pool_projections = pack(weights[1])
    learnable = {
        name: _parameter(value, features) for name, value in attn.learnable_parameters().items()
    }
    return fused_blocks.AttentionResidualWeights(
        _norm(norm, features),
        pack(torch.cat(weights)),
        _parameter(torch.cat(biases), features),
        pool_norm,
        pool_projections,
        pack(attn.proj.weight),
        _optional(attn.proj.bias, features),
        scale=_parameter(attn.scale(), features),
        **learnable,
    )


def _pack_glu(
    norm: nn.LayerNorm,
    mlp: ConvolutionalGLU,
    features: torch.dtype,
    precision: fused_blocks.Precision,
) -> fused_blocks.ConvGluResidualWeights:
    pack = functools.partial(fused_blocks.pack_weight, dtype=features, precision=precision)
    conv = mlp.dwconv.dwconv
    values, gates = mlp.fc1.weight.chunk(2)
    return fused_blocks.ConvGluResidualWeights(
        _norm(norm, features),
        pack(values),
        pack(gates),
        _optional(mlp.fc1.bias, features),
        _parameter(conv.weight, features),
        _optional(conv.bias, features),
        pack(mlp.fc2.weight),
        _optional(mlp.fc2.bias, features),
    )
