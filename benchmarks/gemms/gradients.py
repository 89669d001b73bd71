"""The GEMMs and convolutions of a backward pass; those of the forward pass are in `forward`.

A Linear's or convolution's gradients to its input and to its weight are as many multiply-adds each
as its forward pass; each of them is timed in the ways there are, and may take another than the
others. A depthwise convolution's are small, so its ways compute them together.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gemms.gemm import Gemm, Like, Way

_convolution_backward = torch.ops.aten.convolution_backward


def linear_gradients(x: Tensor, weight: Tensor, like: Like) -> list[Gemm]:
    """Return the gradients of a Linear of ``x [..., in]`` with ``weight [out, in]``."""
    tokens = x.reshape(-1, x.shape[-1])
    rows, columns = len(tokens), len(weight)
    gradient = like((rows, columns))
    transposed = weight.t().contiguous()
    to_input: dict[str, Way] = {
        "mm": lambda: gradient @ weight,
        "transposed weight": lambda: gradient @ transposed.t(),
    }
    to_weight: dict[str, Way] = {
        "mm": lambda: (gradient.t() @ tokens, gradient.sum(0)),
        "transposed result": lambda: (tokens.t() @ gradient, gradient.sum(0)),
    }
    # The rows as the pixels of one image, which PyTorch gives to oneDNN.
    image = tokens.view(1, rows, 1, -1).permute(0, 3, 1, 2)
    d_image = gradient.view(1, rows, 1, -1).permute(0, 3, 1, 2)
    kernel = weight[:, :, None, None]
    for ways, mask in ((to_input, (True, False, False)), (to_weight, (False, True, True))):
        ways["1x1 convolution"] = functools.partial(
            _convolution_backward, d_image, image, kernel, [columns], [1, 1], [0, 0], [1, 1],
            False, [0, 0], 1, mask,
        )  # fmt: skip
    flops = 2.0 * rows * weight.numel()
    return [
        Gemm("linear", ("input gradient", rows, *weight.shape), flops, to_input),
        Gemm("linear", ("weight gradient", rows, *weight.shape), flops, to_weight),
    ]


def convolution_gradients(
    x: Tensor, weight: Tensor, module: nn.Conv2d, like: Like, to_image: bool
) -> list[Gemm]:
    """Return the gradients of a convolution of ``x [B, C, H, W]``, together.

    Parameters
    ----------
    to_image : bool
        Whether the input's is among them: the model's first convolution has none.
    """
    batch, channels, height, width = x.shape
    depthwise = module.groups > 1
    size = tuple(side // step for side, step in zip((height, width), module.stride, strict=True))
    gradient = like((batch, len(weight), *size))
    options: tuple[Any, ...] = (
        [len(weight)], list(module.stride), list(module.padding), [1, 1], False, [0, 0],
        module.groups, (to_image, True, True),
    )  # fmt: skip
    ways: dict[str, Way] = {}
    for name, layout in (
        ("contiguous", torch.contiguous_format),
        ("channels last", torch.channels_last),
    ):
        operands = (t.contiguous(memory_format=layout) for t in (gradient, x, weight))
        ways[name] = functools.partial(_convolution_backward, *operands, *options)
    if depthwise:  # the whole gated unit's, where that is faster than the convolution's in it
        packed, d_out = (like((batch, height * width, n)) for n in (2 * channels, channels))
        ways["transnext_ops.conv_glu"] = functools.partial(
            torch.ops.transnext.conv_glu_backward, d_out, packed, weight, None, None,
            (height, width), (True, True, False, False), "cpp",
        )  # fmt: skip
    kind = "depthwise" if depthwise else "convolution"
    flops = 2.0 * batch * math.prod(size) * weight.numel() * (2 if to_image else 1)
    return [Gemm(kind, (f"{kind} gradients", to_image, *x.shape, *weight.shape), flops, ways)]


def attention_gradients(like: Like, rows: int, length: int, keys: int, dim: int) -> list[Gemm]:
    """Return the gradients of queries with pooled keys and of weights with pooled values."""
    query, key = like((rows, length, dim)), like((rows, keys, dim))
    weights = like((rows, length, keys))
    flops = 2.0 * rows * length * keys * dim
    ways: tuple[tuple[str, Way], ...] = (
        ("queries", functools.partial(torch.bmm, weights, key)),
        ("keys", functools.partial(torch.bmm, weights.transpose(1, 2), query)),
        ("weights", functools.partial(torch.bmm, query, key.transpose(1, 2))),
        ("values", functools.partial(torch.bmm, weights.transpose(1, 2), query)),
    )
    return [
        Gemm("attention", (f"gradient of {name}", *weights.shape, dim), flops, {"bmm": way})
        for name, way in ways
    ]
