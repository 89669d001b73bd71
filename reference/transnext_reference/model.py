r"""The whole TransNeXt forward from a state dict: classification and dense backbone.

What shapes tell is read from the state dict: number of stages, depths, widths, heads, windows,
MLP widths, classes, whether a block's attention is aggregated (it has ``attn.sr.weight``) or
global, and whether it has a query embedding and positional tokens (aggregated) or not
(pixel-focused). What they do not tell are keywords.

Feature maps travel as tokens ``[B, N, C]`` with their grid ``(H, W)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from transnext_reference.arrays import BATCH, Array, Grid, float64
from transnext_reference.attention import aggregated_attention
from transnext_reference.bias_table import tabulated_position_bias
from transnext_reference.conv_glu import conv_glu
from transnext_reference.numerics import layer_norm, softplus
from transnext_reference.pooling import gelu_pool
from transnext_reference.special_attention import global_attention

if TYPE_CHECKING:
    from typing_extensions import Unpack

NORM_EPSILON = 1e-6
"""Of the norms of blocks and of stages: ``norm1``, ``norm2``, ``norm{i}``."""

INNER_NORM_EPSILON = 1e-5
"""Of the norms of patch embeddings and of pooled features, which keep PyTorch's default."""

MINIMUM_SIZE = 32
"""The smallest height and width of an image."""


class ModelOptions(TypedDict, total=False):
    """The keyword arguments of `forward_features`, which describes them."""

    sr_ratios: Sequence[int]
    img_size: int
    pretrain_size: int
    fixed_pool_size: int | None
    position_bias: str


@dataclass(frozen=True)
class Parameters:
    """A state dict, seen from one module of the network."""

    state_dict: Mapping[str, ArrayLike]
    prefix: str = ""

    def at(self, name: str) -> Parameters:
        """Return the parameters of a module inside this one."""
        return Parameters(self.state_dict, f"{self.prefix}{name}.")

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.state_dict

    def get(self, name: str, *shape: int | None) -> Array:
        """One parameter as float64, its shape checked.

        Raises
        ------
        ValueError
            If it is missing or has another shape.
        """
        key = self.prefix + name
        if key not in self.state_dict:
            raise ValueError(f"state_dict: key {key!r} is missing")
        return float64(f"state_dict[{key!r}]", self.state_dict[key], *shape)

    def find(self, name: str, *shape: int | None) -> Array | None:
        """As `get`; None if it is missing."""
        return self.get(name, *shape) if name in self else None


@dataclass(frozen=True)
class StageSizes:
    """What the attention of one stage needs to know about sizes."""

    grid: Grid
    pool_grid: Grid
    pretrain_grid: Grid
    train_grid: Grid | None  # None, as the next: extrapolation
    train_pool_grid: Grid | None


def _linear(layer: Parameters, x: Array) -> Array:
    """``[..., C_in]`` to ``[..., C_out]``."""
    weight = layer.get("weight", None, x.shape[-1])
    return x @ weight.T + layer.get("bias", weight.shape[0])


def _norm(layer: Parameters, x: Array, epsilon: float) -> Array:
    channels = x.shape[-1]
    return layer_norm(x, layer.get("weight", channels), layer.get("bias", channels), epsilon)


def _conv2d(image: Array, weight: Array, bias: Array, stride: int, padding: int) -> Array:
    """Convolution of ``[B, H, W, C_in]`` by ``[C_out, C_in, k, k]``, as one matrix product."""
    out_channels, channels, kernel, _ = weight.shape
    batch, *size, _ = image.shape
    edges = (padding, padding)
    padded = np.pad(image, ((0, 0), edges, edges, (0, 0)))
    height, width = ((extent + 2 * padding - kernel) // stride + 1 for extent in size)
    patches = np.empty((batch, height, width, kernel, kernel, channels))
    for u in range(kernel):
        for v in range(kernel):
            shifted = padded[:, u:, v:]
            patches[:, :, :, u, v] = shifted[:, ::stride, ::stride][:, :height, :width]
    matrix = weight.transpose(2, 3, 1, 0).reshape(-1, out_channels)  # [k k C_in, C_out]
    result = patches.reshape(-1, matrix.shape[0]) @ matrix + bias
    return result.reshape(batch, height, width, out_channels)


def _patch_embed(module: Parameters, image: Array, first: bool) -> tuple[Array, Grid]:
    """Overlapping strided convolution of ``[B, H, W, C]``, then norm: tokens and their grid."""
    kernel, stride = (7, 4) if first else (3, 2)
    weight = module.get("proj.weight", None, image.shape[-1], kernel, kernel)
    bias = module.get("proj.bias", weight.shape[0])
    embedded = _conv2d(image, weight, bias, stride, kernel // 2)
    batch, height, width, channels = embedded.shape
    tokens = embedded.reshape(batch, height * width, channels)
    return _norm(module.at("norm"), tokens, INNER_NORM_EPSILON), (height, width)


def _convolutional_glu(module: Parameters, x: Array, grid: Grid) -> Array:
    conv = module.at("dwconv.dwconv")
    expanded = _linear(module.at("fc1"), x)
    weight = conv.get("weight", expanded.shape[-1] // 2, 1, 3, 3)
    gated = conv_glu(expanded, weight, conv.get("bias", weight.shape[0]), grid=grid)
    return _linear(module.at("fc2"), gated)


def _attention(module: Parameters, x: Array, sizes: StageSizes) -> Array:
    """Attention of one block, of either kind: ``[B, N, C]`` to ``[B, N, C]``."""
    batch, count, channels = x.shape
    temperature = module.get("temperature", None, 1, 1)
    heads = temperature.shape[0]
    dim = channels // heads
    scale = softplus(temperature).reshape(heads)
    query_embedding = module.find("query_embedding", heads, 1, dim)
    if query_embedding is not None:
        query_embedding = query_embedding.reshape(heads, dim)
    bias = tabulated_position_bias(
        module.get("cpb_fc1.weight", None, 2),
        module.get("cpb_fc1.bias", None),
        module.get("cpb_fc2.weight", heads, None),
        module.get("cpb_fc2.bias", heads),
        grid=sizes.grid,
        pool_grid=sizes.pool_grid,
        pretrain_grid=sizes.pretrain_grid,
        train_grid=sizes.train_grid,
        train_pool_grid=sizes.train_pool_grid,
    )

    if "sr.weight" not in module:
        qkv = _linear(module.at("qkv"), x).reshape(batch, count, 3, heads, dim)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        out = global_attention(
            q, k, v, grid=sizes.grid, scale=scale, query_embedding=query_embedding, bias=bias
        )
        return _linear(module.at("proj"), out.reshape(batch, count, channels))

    reduced = x @ module.get("sr.weight", channels, channels, 1, 1)[:, :, 0, 0].T
    reduced = reduced + module.get("sr.bias", channels)
    pooled = gelu_pool(reduced, grid=sizes.grid, pool_grid=sizes.pool_grid)
    pooled = _norm(module.at("norm"), pooled, INNER_NORM_EPSILON)
    q = _linear(module.at("q"), x).reshape(batch, count, heads, dim)
    kv = _linear(module.at("kv"), x).reshape(batch, count, 2, heads, dim)
    kv_pool = _linear(module.at("kv"), pooled).reshape(batch, pooled.shape[1], 2, heads, dim)

    local_bias = module.get("relative_pos_bias_local", heads, None)
    cells = local_bias.shape[1]
    window_size = math.isqrt(cells)
    if window_size**2 != cells:
        raise ValueError(
            f"state_dict[{module.prefix + 'relative_pos_bias_local'!r}]: got {cells} window cells, "
            "needs a square number"
        )
    token_bias = module.find("learnable_bias", heads, 1, cells)
    out, _ = aggregated_attention(
        q,
        kv[:, :, 0],
        kv[:, :, 1],
        kv_pool[:, :, 0],
        kv_pool[:, :, 1],
        grid=sizes.grid,
        pool_grid=sizes.pool_grid,
        window_size=window_size,
        scale=scale,
        query_embedding=query_embedding,
        local_bias=local_bias,
        pool_bias=bias,
        tokens=module.find("learnable_tokens", heads, dim, cells),
        token_bias=None if token_bias is None else token_bias.reshape(heads, cells),
    )
    return _linear(module.at("proj"), out.reshape(batch, count, channels))


def _stage_sizes(
    grid: Grid,
    *,
    stride: int,
    sr_ratio: int,
    img_size: int,
    pretrain_size: int,
    fixed_pool_size: int | None,
    interpolate: bool,
) -> StageSizes:
    """Pooled, pretraining and training grids of a stage; with sr_ratio 1, nothing is pooled."""

    def pool(size: Grid) -> Grid:
        return max(1, size[0] // sr_ratio), max(1, size[1] // sr_ratio)

    pool_grid = pool(grid)
    if fixed_pool_size is not None and sr_ratio > 1:
        pool_grid = (min(fixed_pool_size, grid[0]), min(fixed_pool_size, grid[1]))
    train_grid = (img_size // stride, img_size // stride)
    return StageSizes(
        grid=grid,
        pool_grid=pool_grid,
        pretrain_grid=(pretrain_size // stride, pretrain_size // stride),
        train_grid=train_grid if interpolate else None,
        train_pool_grid=pool(train_grid) if interpolate else None,
    )


def _count(parameters: Parameters, pattern: str, first: int) -> int:
    """How many of the keys ``pattern.format(first)``, ``pattern.format(first + 1)``, … exist."""
    number = first
    while pattern.format(number) in parameters:
        number += 1
    return number - first


def forward_features(
    state_dict: Mapping[str, ArrayLike],
    images: ArrayLike,
    *,
    sr_ratios: Sequence[int] = (8, 4, 2, 1),
    img_size: int = 224,
    pretrain_size: int = 224,
    fixed_pool_size: int | None = None,
    position_bias: str = "extrapolate",
) -> list[Array]:
    """Run the dense backbone; return the normalised feature map of every stage.

    Parameters
    ----------
    state_dict
        Parameters by name; a classification head is ignored.
    images
        ``[B, C_in, H, W]``, H and W at least 32.
    sr_ratios
        Pooling ratio of each stage: above 1 where its attention is aggregated, 1 where global.
    img_size
        Size of the square images the model was built for: what ``"interpolate"`` starts from.
    pretrain_size
        Size the weights were trained at: the unit of the position bias's coordinates.
    fixed_pool_size
        Side of the pooled grid whatever the image size (linear inference mode); None for a side
        of grid // sr_ratio.
    position_bias
        ``"extrapolate"`` or ``"interpolate"``.

    Returns
    -------
    list of numpy.ndarray
        ``[B, C_i, H_i, W_i]`` for stage i, at strides 4, 8, 16, 32.

    Raises
    ------
    ValueError
        If an argument is out of range, or the state dict lacks a key, has one of another shape,
        or does not fit `sr_ratios`.
    """
    parameters = Parameters(state_dict)
    stages = _count(parameters, "patch_embed{}.proj.weight", 1)
    if stages == 0:
        raise ValueError("state_dict: key 'patch_embed1.proj.weight' is missing")
    if len(sr_ratios) != stages or min(sr_ratios) < 1:
        raise ValueError(
            f"sr_ratios: got {tuple(sr_ratios)}, needs {stages} whole numbers of at least 1"
        )
    if position_bias not in ("extrapolate", "interpolate"):
        raise ValueError(
            f"position_bias: got {position_bias!r}, needs 'extrapolate' or 'interpolate'"
        )
    for name, size in (("img_size", img_size), ("pretrain_size", pretrain_size)):
        if size < MINIMUM_SIZE:
            raise ValueError(f"{name}: got {size}, needs at least {MINIMUM_SIZE}")
    if fixed_pool_size is not None and fixed_pool_size < 1:
        raise ValueError(f"fixed_pool_size: got {fixed_pool_size}, needs at least 1, or None")
    in_channels = parameters.get("patch_embed1.proj.weight", None, None, 7, 7).shape[1]
    images = float64("images", images, BATCH, in_channels, None, None)
    if min(images.shape[2:]) < MINIMUM_SIZE:
        raise ValueError(
            f"images: got {images.shape[2]} x {images.shape[3]} pixels, "
            f"needs at least {MINIMUM_SIZE} x {MINIMUM_SIZE}"
        )

    image = images.transpose(0, 2, 3, 1)  # [B, H, W, C]
    maps = []
    for stage, sr_ratio in enumerate(sr_ratios, start=1):
        x, grid = _patch_embed(parameters.at(f"patch_embed{stage}"), image, first=stage == 1)
        sizes = _stage_sizes(
            grid,
            stride=4 << (stage - 1),
            sr_ratio=sr_ratio,
            img_size=img_size,
            pretrain_size=pretrain_size,
            fixed_pool_size=fixed_pool_size,
            interpolate=position_bias == "interpolate",
        )
        blocks = parameters.at(f"block{stage}")
        for number in range(_count(blocks, "{}.norm1.weight", 0)):
            block = blocks.at(f"{number}")
            if ("attn.sr.weight" in block) != (sr_ratio > 1):
                kind = "aggregated" if "attn.sr.weight" in block else "global"
                raise ValueError(
                    f"sr_ratios: got {sr_ratio} for stage {stage}, but {block.prefix}attn in "
                    f"state_dict is {kind} attention"
                )
            x = x + _attention(block.at("attn"), _norm(block.at("norm1"), x, NORM_EPSILON), sizes)
            x = x + _convolutional_glu(
                block.at("mlp"), _norm(block.at("norm2"), x, NORM_EPSILON), grid
            )
        x = _norm(parameters.at(f"norm{stage}"), x, NORM_EPSILON)
        image = x.reshape(x.shape[0], *grid, x.shape[-1])
        maps.append(image.transpose(0, 3, 1, 2))
    return maps


def forward(
    state_dict: Mapping[str, ArrayLike],
    images: ArrayLike,
    **options: Unpack[ModelOptions],
) -> Array:
    """Run the classifier: mean of the last stage's normalised tokens, then a linear head.

    Parameters
    ----------
    state_dict, images
        As in `forward_features`.
    **options
        Its keyword arguments.

    Returns
    -------
    numpy.ndarray
        Logits ``[B, classes]``.

    Raises
    ------
    ValueError
        As in `forward_features`, or if the state dict has no ``head``.
    """
    *_, last = forward_features(state_dict, images, **options)
    return _linear(Parameters(state_dict).at("head"), last.mean(axis=(2, 3)))
