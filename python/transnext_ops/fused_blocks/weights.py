"""The weights of the fused blocks, packed once for the compiled GEMMs."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from transnext_ops.fused_blocks.weight_memory import weight_room

GEMM_DTYPES = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.bfloat16: torch.bfloat16,
    torch.float16: torch.float32,
}
SPLIT_FLOAT32 = torch.int32  # of packed weights: 32 bits hold a float32 as two bfloat16

Precision = Literal["highest", "high"]


class PackedWeight(NamedTuple):
    """The weight of a Linear layer, laid out for the compiled GEMMs.

    Attributes
    ----------
    data : Tensor
        Opaque, one-dimensional, in the type of the GEMMs.
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


def product_precision(dtype: torch.dtype) -> Precision:
    """Say how precise products of features of `dtype` need to be: see :func:`pack_weight`.

    "high" for float32 where ``torch.set_float32_matmul_precision`` allows it and the processor has
    a tile unit for it, else "highest".
    """
    if dtype != torch.float32:
        return "highest"
    from transnext_ops.backends import cpp_backend

    return "high" if cpp_backend.splits_float32() else "highest"


def pack_weight(
    weight: Tensor, dtype: torch.dtype, *, precision: Precision = "highest"
) -> PackedWeight:
    """Lay out the weight of a Linear layer for the compiled products.

    Parameters
    ----------
    weight : Tensor [columns, depth]
        On the CPU, of any floating-point type and any strides.
    dtype : torch.dtype
        Type of the features it will be multiplied with: bfloat16 and float64 keep their type,
        float16 and float32 are multiplied in float32.
    precision : "highest" or "high"
        "high" multiplies float32 as three products of bfloat16, with an error of at most 2⁻¹⁴ of
        each product. Only CPU levels with a tile unit have that; tokens are then float32 too.

    Raises
    ------
    TypeError, ValueError
        `weight`, `dtype` or `precision` is not supported; the message names it.
    RuntimeError
        `precision` is "high", and the CPU level in force has no tile unit.
    """
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight: got {type(weight).__name__}, needs a torch.Tensor")
    if weight.dim() != 2 or weight.device.type != "cpu":
        raise ValueError(
            f"weight: got shape {tuple(weight.shape)} on {weight.device}, "
            "needs [columns, depth] on the CPU"
        )
    if dtype not in GEMM_DTYPES:
        raise TypeError(f"dtype: got {dtype}, needs one of {', '.join(map(str, GEMM_DTYPES))}")
    if precision not in ("highest", "high") or (precision == "high" and dtype != torch.float32):
        raise ValueError(
            f"precision: got {precision!r} with {dtype}, needs 'highest', or 'high' with "
            "torch.float32"
        )
    from transnext_ops.backends import cpp_backend

    product = GEMM_DTYPES[dtype]
    if precision == "high" or (product == torch.float64) != (weight.dtype == torch.float64):
        weight = weight.to(product)
    if precision == "high":
        product = SPLIT_FLOAT32
    columns, depth = weight.shape
    packed = weight_room(cpp_backend.packed_weight_size(columns, depth, product), product)
    cpp_backend.pack_weight(weight.detach(), packed)
    return PackedWeight(packed, columns, depth)


def pack_convolution(
    weight: Tensor, dtype: torch.dtype, *, channels_last: bool, precision: Precision = "highest"
) -> PackedWeight:
    """Lay out the weight of a convolution for :func:`patch_embed`.

    Parameters
    ----------
    weight : Tensor [columns, C, kernel, kernel]
        On the CPU.
    dtype, precision : torch.dtype, "highest" or "high"
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
    return pack_weight(weight.flatten(1), dtype, precision=precision)
