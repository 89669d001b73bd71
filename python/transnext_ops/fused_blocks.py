"""A block's two residual branches and the patch embedding before it, each in one call, for
inference on CPUs.

    patch_embed        LayerNorm(convolution(x)), as tokens
    attention_residual   x + proj(attention(projections(LayerNorm(x))))
    conv_glu_residual  x + fc2(GELU(dwconv(a)) * g),   a, g = fc1(LayerNorm(x))

They compute what the operators and Linear layers compute one after the other, without ever writing
what lies between them to memory: the norm goes into the product that follows it, the bias and the
residual into the one before, and the features between stay in cache. Weights are packed once.
They have no gradient; training composes the same from the differentiable operators.

Source: TransNeXt paper (arXiv 2311.17132), figure 3 and equations 5 to 9.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from transnext_ops.backends import registry
from transnext_ops.dispatch import eager
from transnext_ops.dispatch.custom_operators import PATHS
from transnext_ops.operators.checks import Grid, check_grid, check_window_size
from transnext_ops.operators.position_bias.table import PositionBias, bias_arguments

__all__ = [
    "AttentionResidualWeights",
    "ConvGluResidualWeights",
    "NormWeights",
    "PackedWeight",
    "PatchEmbedWeights",
    "attention_residual",
    "conv_glu_residual",
    "pack_convolution",
    "pack_weight",
    "patch_embed",
    "unsupported",
]

_PRODUCT_DTYPES = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.bfloat16: torch.bfloat16,
    torch.float16: torch.float32,
}


class PackedWeight(NamedTuple):
    """The weight of a Linear layer, laid out for the compiled products.

    Attributes
    ----------
    data : Tensor
        Opaque, one-dimensional, in the type of the products.
    columns, depth : int
        Outputs and inputs of the layer.
    """

    data: Tensor
    columns: int
    depth: int


class NormWeights(NamedTuple):
    """A LayerNorm: `weight` and `bias` ``[C]`` in the parameters' compute type, and its `epsilon`.

    Source: Ba et al., "Layer normalization", 2016.
    """

    weight: Tensor
    bias: Tensor
    epsilon: float


class AttentionResidualWeights(NamedTuple):
    """What :func:`attention_residual` multiplies by.

    Attributes
    ----------
    norm : NormWeights
        Of the tokens.
    projections : PackedWeight
        ``[4 C, C]``: query, key, value and the features to pool; ``[3 C, C]`` without the last for
        global attention.
    projections_bias : Tensor or None
        ``[4 C]`` or ``[3 C]``.
    pool_norm : NormWeights or None
        Of the pooled features; None for global attention.
    pool_projections : PackedWeight or None
        ``[2 C, C]``: key and value again, for the pooled features; None for global attention.
    out : PackedWeight
        ``[C, C]``.
    out_bias : Tensor or None
        ``[C]``.
    scale, query_embedding, local_bias, tokens, token_bias : Tensor or None
        As in :func:`transnext_ops.aggregated_attention`, in the parameters' compute type; scale,
        ``[h]``, is there always and says how many heads there are.
    """

    norm: NormWeights
    projections: PackedWeight
    projections_bias: Tensor | None
    pool_norm: NormWeights | None
    pool_projections: PackedWeight | None
    out: PackedWeight
    out_bias: Tensor | None
    scale: Tensor
    query_embedding: Tensor | None = None
    local_bias: Tensor | None = None
    tokens: Tensor | None = None
    token_bias: Tensor | None = None


class ConvGluResidualWeights(NamedTuple):
    """What :func:`conv_glu_residual` multiplies by.

    Attributes
    ----------
    norm : NormWeights
        Of the tokens.
    values, gates : PackedWeight
        ``[hidden, C]``: the two halves of fc1, the first of which is convolved.
    fc1_bias : Tensor or None
        ``[2 hidden]``.
    conv_weight, conv_bias : Tensor, Tensor or None
        ``[hidden, 1, 3, 3]`` and ``[hidden]``.
    fc2 : PackedWeight
        ``[C, hidden]``.
    fc2_bias : Tensor or None
        ``[C]``.
    """

    norm: NormWeights
    values: PackedWeight
    gates: PackedWeight
    fc1_bias: Tensor | None
    conv_weight: Tensor
    conv_bias: Tensor | None
    fc2: PackedWeight
    fc2_bias: Tensor | None


class PatchEmbedWeights(NamedTuple):
    """What :func:`patch_embed` multiplies by.

    Attributes
    ----------
    convolution : PackedWeight
        Of :func:`pack_convolution`.
    channels_last : bool
        For which memory format of the map it was packed.
    bias : Tensor or None
        ``[columns]``.
    norm : NormWeights
        Of the tokens.
    """

    convolution: PackedWeight
    channels_last: bool
    bias: Tensor | None
    norm: NormWeights


def unsupported(
    x: Tensor,
    *,
    head_dim: int | None = None,
    window_size: int | None = None,
    backend: str | None = None,
) -> str | None:
    """Say why the branches cannot run on `x` with the backend in force, or None if they can.

    Parameters
    ----------
    x : Tensor
        Tokens or a map.
    head_dim, window_size : int or None
        Of the attention; no window for global attention.
    backend : str, optional
        Overrides the backend in force.
    """
    if x.device.type != "cpu":
        return f"the branches run on the CPU, got {x.device}"
    if x.dtype not in _PRODUCT_DTYPES:
        return f"the branches have no kernels for {x.dtype}"
    requested = registry.get_backend() if backend is None else registry.check_backend_name(backend)
    chosen = registry.choose(
        requested, "aggregated_attention", x.device, x.dtype, head_dim, window_size or 0
    )
    return None if chosen == "cpp" else f"the branches run on backend 'cpp', chosen is {chosen!r}"


def pack_weight(weight: Tensor, dtype: torch.dtype) -> PackedWeight:
    """Lay out the weight of a Linear layer for the compiled products.

    Parameters
    ----------
    weight : Tensor [columns, depth]
        On the CPU, of any floating-point type and any strides.
    dtype : torch.dtype
        Type of the features it will be multiplied with: bfloat16 and float64 keep their type,
        float16 and float32 take products in float32.

    Raises
    ------
    TypeError, ValueError
        `weight` or `dtype` is not as it must be; the message names it.
    """
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight: got {type(weight).__name__}, needs a torch.Tensor")
    if weight.dim() != 2 or weight.device.type != "cpu":
        raise ValueError(
            f"weight: got shape {tuple(weight.shape)} on {weight.device}, "
            "needs [columns, depth] on the CPU"
        )
    if dtype not in _PRODUCT_DTYPES:
        raise TypeError(f"dtype: got {dtype}, needs one of {', '.join(map(str, _PRODUCT_DTYPES))}")
    from transnext_ops.backends import cpp_backend

    product = _PRODUCT_DTYPES[dtype]
    if (product == torch.float64) != (weight.dtype == torch.float64):
        weight = weight.to(product)
    return PackedWeight(cpp_backend.pack_weight(weight.detach(), product), *weight.shape)


def pack_convolution(weight: Tensor, dtype: torch.dtype, *, channels_last: bool) -> PackedWeight:
    """Lay out the weight of a convolution for :func:`patch_embed`.

    Parameters
    ----------
    weight : Tensor [columns, C, kernel, kernel]
        On the CPU.
    dtype : torch.dtype
        As for :func:`pack_weight`.
    channels_last : bool
        Whether the channels of the maps lie next to each other in memory, or their columns.
    """
    if weight.dim() != 4 or weight.shape[2] != weight.shape[3]:
        raise ValueError(
            f"weight: got shape {tuple(weight.shape)}, needs [columns, C, kernel, kernel]"
        )
    if channels_last:
        weight = weight.permute(0, 2, 3, 1)
    return pack_weight(weight.flatten(1), dtype)


def patch_embed(
    x: Tensor,
    weights: PatchEmbedWeights,
    *,
    kernel_size: int,
    stride: int,
    features: torch.dtype | None = None,
) -> Tensor:
    """Return the normalised tokens of a strided convolution, without gradient.

    Parameters
    ----------
    x : Tensor [B, C, H, W]
        A map on the CPU; any strides.
    weights : PatchEmbedWeights
    kernel_size, stride : int
        Of the convolution, which is padded by ``kernel_size // 2``.
    features : torch.dtype, optional
        Type of the product, x's unless given.

    Returns
    -------
    Tensor [B, N, columns]
        Of x's type.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, device or shape; the message names it.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x: got {type(x).__name__}, needs a torch.Tensor")
    columns, depth = weights.convolution.columns, weights.convolution.depth
    channels = depth // (kernel_size * kernel_size) if kernel_size > 0 else 0
    if x.dim() != 4 or x.shape[1] != channels or channels * kernel_size**2 != depth:
        raise ValueError(
            f"x: got {tuple(x.shape)}, needs [B, C, H, W] with C * kernel_size² = {depth} of the "
            "packed weights"
        )
    if stride < 1:
        raise ValueError(f"stride: got {stride}, needs a positive number")
    _check_product(x, x.dtype if features is None else features, weights.convolution)
    height, width = (
        (size + kernel_size // 2 * 2 - kernel_size) // stride + 1 for size in x.shape[2:]
    )
    if height < 1 or width < 1:
        raise ValueError(f"x: got {tuple(x.shape)}, needs a map as large as the kernel")
    return eager.call(
        PATHS["patch_embed"],
        x, weights.convolution.data, weights.bias, weights.norm.weight, weights.norm.bias,
        (height, width), columns, kernel_size, stride, weights.channels_last,
        weights.norm.epsilon, "cpp",
    )  # fmt: skip


def attention_residual(
    x: Tensor,
    weights: AttentionResidualWeights,
    *,
    grid: Grid,
    pool_grid: Grid,
    window_size: int | None,
    pool_bias: Tensor | PositionBias | None = None,
    features: torch.dtype | None = None,
) -> Tensor:
    r"""Return ``x + proj(attention(LayerNorm(x)))``, without gradient.

    Parameters
    ----------
    x : Tensor [B, N, C]
        Tokens of `grid`, on the CPU; any strides.
    weights : AttentionResidualWeights
        Its heads divide C.
    grid, pool_grid : (int, int)
        Query grid and pooled grid; the same for global attention.
    window_size : int or None
        Side of the local window, None for global attention.
    pool_bias : Tensor [h, N, P] or PositionBias, optional
        Bias of the pooled logits.
    features : torch.dtype, optional
        Type in which queries, keys and values are stored and multiplied, x's unless given: under
        autocast x stays in float32 and the features are 16-bit.

    Returns
    -------
    Tensor [B, N, C]
        Of x's type.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, device or shape; the message names it.
    """
    grid, pool_grid = check_grid("grid", grid), check_grid("pool_grid", pool_grid)
    features = _check_branch_input(x, grid, weights.projections, features)
    heads = weights.scale.numel()
    if heads < 1 or x.shape[2] % heads:
        raise ValueError(f"weights.scale: got {heads} heads, needs a divisor of {x.shape[2]}")
    window = 0 if window_size is None else check_window_size(window_size)
    bias, row_map, col_map, col_weights = bias_arguments(
        "pool_bias", pool_bias, heads, grid, pool_grid, x
    )
    if (weights.pool_projections is None) != (window == 0):
        raise ValueError(
            f"window_size: got {window_size}, needs None without weights.pool_projections and a "
            "window's side with them"
        )
    pool_projections = None if weights.pool_projections is None else weights.pool_projections.data
    pool_norm = (None, None, 0.0) if weights.pool_norm is None else weights.pool_norm
    return eager.call(
        PATHS["attention_residual"],
        x, weights.norm.weight, weights.norm.bias, weights.projections.data,
        weights.projections_bias, pool_norm[0], pool_norm[1], pool_projections, weights.scale,
        weights.query_embedding, weights.local_bias, bias, row_map, col_map, col_weights,
        weights.tokens, weights.token_bias, weights.out.data, weights.out_bias, grid, pool_grid,
        window, heads, weights.norm.epsilon, pool_norm[2], features, "cpp",
    )  # fmt: skip


def conv_glu_residual(
    x: Tensor,
    weights: ConvGluResidualWeights,
    *,
    grid: Grid,
    features: torch.dtype | None = None,
) -> Tensor:
    """Return ``x + fc2(GELU(dwconv(a)) * g)`` with ``a, g = fc1(LayerNorm(x))``, without gradient.

    The hidden features exist for a few rows of an image at a time.

    Parameters
    ----------
    x : Tensor [B, N, C]
        Tokens of `grid`, on the CPU; any strides.
    weights : ConvGluResidualWeights
    grid : (int, int)
        (H, W) with N = H * W.
    features : torch.dtype, optional
        Type of the products, x's unless given.

    Returns
    -------
    Tensor [B, N, C]
        Of x's type.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, device or shape; the message names it.
    """
    grid = check_grid("grid", grid)
    _check_branch_input(x, grid, weights.values, features)
    return eager.call(
        PATHS["conv_glu_residual"],
        x, weights.norm.weight, weights.norm.bias, weights.values.data, weights.gates.data,
        weights.fc1_bias, weights.conv_weight, weights.conv_bias, weights.fc2.data,
        weights.fc2_bias, grid, weights.norm.epsilon, "cpp",
    )  # fmt: skip


def _check_branch_input(
    x: Tensor, grid: Grid, first: PackedWeight, features: torch.dtype | None
) -> torch.dtype:
    """Check the tokens against the grid and the first weight; return the features' type."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x: got {type(x).__name__}, needs a torch.Tensor")
    if x.dim() != 3 or x.shape[1] != grid[0] * grid[1] or x.shape[2] != first.depth:
        raise ValueError(
            f"x: got {tuple(x.shape)}, needs [B, N, C] with N = {grid[0]} * {grid[1]} tokens of "
            f"grid and C = {first.depth} of the packed weights"
        )
    features = x.dtype if features is None else features
    _check_product(x, features, first)
    return features


def _check_product(x: Tensor, features: torch.dtype, weight: PackedWeight) -> None:
    if x.device.type != "cpu":
        raise ValueError(f"x: got device {x.device}, needs the CPU")
    if _PRODUCT_DTYPES.get(features) != weight.data.dtype:
        raise ValueError(
            f"features: got {features}, needs the type that the weights were packed for, whose "
            f"products are in {weight.data.dtype}"
        )
