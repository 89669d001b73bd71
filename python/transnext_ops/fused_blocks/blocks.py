"""The fused blocks: their checks and calls."""

from __future__ import annotations

import torch
from torch import Tensor

from transnext_ops.backends import registry
from transnext_ops.dispatch import eager
from transnext_ops.dispatch.custom_operators import PATHS
from transnext_ops.fused_blocks.weights import (
    GEMM_DTYPES,
    SPLIT_FLOAT32,
    AttentionResidualWeights,
    ConvGluResidualWeights,
    NormWeights,
    PackedWeight,
    PatchEmbedWeights,
)
from transnext_ops.operators.checks import Grid, check_grid, check_window_size
from transnext_ops.operators.position_bias.table import PositionBias, bias_arguments


def unsupported(
    x: Tensor,
    *,
    op: str = "aggregated_attention",
    head_dim: int | None = None,
    window_size: int | None = None,
    backend: str | None = None,
) -> str | None:
    """Say why the fused blocks cannot run on `x` with the backend in force, or None if they can.

    Parameters
    ----------
    x : Tensor
        Tokens or a map.
    op : str
        An operator that the compiled library must have.
    head_dim, window_size : int or None
        Of the attention; no window for global attention.
    backend : str, optional
        Overrides the backend in force.
    """
    if x.device.type != "cpu":
        return f"the fused blocks run on the CPU, got {x.device}"
    if x.dtype not in GEMM_DTYPES:
        return f"the fused blocks have no kernels for {x.dtype}"
    requested = registry.get_backend() if backend is None else registry.check_backend_name(backend)
    chosen = registry.choose(requested, op, x.device, x.dtype, head_dim, window_size or 0)
    if chosen == "cpp":
        return None
    return f"the fused blocks run on backend 'cpp', chosen is {chosen!r}"


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
    _check_is_tensor(x)
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


def token_norm(x: Tensor, norm: NormWeights) -> Tensor:
    """Return ``LayerNorm(x)``, without gradient.

    Parameters
    ----------
    x : Tensor [B, N, C]
        On the CPU, of any floating-point type; any strides.
    norm : NormWeights
        In the compute type of x: float64 for float64, else float32.

    Returns
    -------
    Tensor [B, N, C]
        Of x's type.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, device or shape; the message names it.
    """
    _check_is_tensor(x)
    if x.dim() != 3 or x.shape[2:] != norm.weight.shape:
        raise ValueError(
            f"x: got {tuple(x.shape)}, needs [B, N, C] with C = {norm.weight.numel()} of the norm"
        )
    _check_is_on_cpu(x)
    return eager.call(PATHS["token_norm"], x, norm.weight, norm.bias, norm.epsilon, "cpp")


def pooled_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a Linear of the mean over tokens, without gradient.

    Parameters
    ----------
    x : Tensor [B, N, C]
        On the CPU, of any floating-point type; any strides.
    weight : Tensor [K, C]
        Of x's type.
    bias : Tensor [K], optional
        Of x's type.

    Returns
    -------
    Tensor [B, K]
        Of x's type. Means and sums are in its compute type, rounded once.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, device or shape; the message names it.
    """
    _check_is_tensor(x)
    if x.dim() != 3 or weight.dim() != 2 or x.shape[2] != weight.shape[1]:
        raise ValueError(
            f"x, weight: got {tuple(x.shape)}, {tuple(weight.shape)}, need [B, N, C] and [K, C]"
        )
    _check_is_on_cpu(x)
    return eager.call(PATHS["pooled_linear"], x, weight, bias, "cpp")


def _check_branch_input(
    x: Tensor, grid: Grid, first: PackedWeight, features: torch.dtype | None
) -> torch.dtype:
    """Check the tokens against the grid and the first weight; return the features' type."""
    _check_is_tensor(x)
    if x.dim() != 3 or x.shape[1] != grid[0] * grid[1] or x.shape[2] != first.depth:
        raise ValueError(
            f"x: got {tuple(x.shape)}, needs [B, N, C] with N = {grid[0]} * {grid[1]} tokens of "
            f"grid and C = {first.depth} of the packed weights"
        )
    features = x.dtype if features is None else features
    _check_product(x, features, first)
    return features


def _check_is_tensor(x: object) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x: got {type(x).__name__}, needs a torch.Tensor")


def _check_is_on_cpu(x: Tensor) -> None:
    if x.device.type != "cpu":
        raise ValueError(f"x: got device {x.device}, needs the CPU")


def _check_product(x: Tensor, features: torch.dtype, weight: PackedWeight) -> None:
    _check_is_on_cpu(x)
    if weight.data.dtype == SPLIT_FLOAT32:
        if x.dtype != torch.float32 or features != torch.float32:
            raise ValueError(
                f"x, features: got {x.dtype}, {features}, need torch.float32, the type of weights "
                "that were packed with precision 'high'"
            )
    elif GEMM_DTYPES.get(features) != weight.data.dtype:
        raise ValueError(
            f"features: got {features}, needs the type that the weights were packed for, whose "
            f"GEMMs are in {weight.data.dtype}"
        )
