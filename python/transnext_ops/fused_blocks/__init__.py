"""Fused blocks for inference on CPUs: a patch embedding, each half of a block, a head, in one call.

    patch_embed         LayerNorm(convolution(x)), as tokens
    attention_residual  x + proj(attention(projections(LayerNorm(x))))
    conv_glu_residual   x + fc2(GELU(dwconv(a)) * g),   a, g = fc1(LayerNorm(x))
    token_norm          LayerNorm(x), for what follows the last block
    pooled_linear       fc(mean of x), a classifier's head

They compute what the operators and Linear layers compute one after the other, without writing what
lies between them to memory: each LayerNorm is fused into the prologue of the GEMM that follows it,
bias and residual into the epilogue of the one before, and intermediate features stay in cache.
Weights are packed once. Blocks that run one after the other again and again are recorded in a
:class:`Program`, which is one call. The blocks have no gradient; to train, compose them from the
differentiable operators.

Source: TransNeXt paper (arXiv 2311.17132), sections 3.1 to 3.3.
"""

from transnext_ops.fused_blocks.blocks import (
    attention_residual,
    conv_glu_residual,
    patch_embed,
    pooled_linear,
    token_norm,
    unsupported,
)
from transnext_ops.fused_blocks.program import Program, runs_programs
from transnext_ops.fused_blocks.weight_memory import packed_together
from transnext_ops.fused_blocks.weights import (
    AttentionResidualWeights,
    ConvGluResidualWeights,
    NormWeights,
    PackedWeight,
    PatchEmbedWeights,
    Precision,
    pack_convolution,
    pack_weight,
    product_precision,
)

__all__ = [
    "AttentionResidualWeights",
    "ConvGluResidualWeights",
    "NormWeights",
    "PackedWeight",
    "PatchEmbedWeights",
    "Precision",
    "Program",
    "attention_residual",
    "conv_glu_residual",
    "pack_convolution",
    "pack_weight",
    "packed_together",
    "patch_embed",
    "pooled_linear",
    "product_precision",
    "runs_programs",
    "token_norm",
    "unsupported",
]
