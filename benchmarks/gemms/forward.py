"""GEMM time of a model: its GEMMs and convolutions by themselves, each at the best rate found.

What there is to multiply is recorded from a forward pass of the published formulation; for a case
of both directions each GEMM's gradients follow it (`gradients`). For every distinct
shape each way that PyTorch (and this package) offers is timed, and the fastest kept; the step then
runs all GEMMs of the model in order, every one with its own weights. Element-wise work,
normalisation, softmax, the 1×9 products of the window and the position bias are left out.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import transnext_ops as ops
from benchmarks.gemms.gemm import Gemm, Like, Way
from benchmarks.gemms.gradients import attention_gradients, convolution_gradients, linear_gradients
from benchmarks.published.arguments import published_arguments
from benchmarks.published.attention import AggregatedAttention, GlobalAttention
from benchmarks.published.conv_glu import ConvolutionalGLU
from benchmarks.published.model import PublishedTransNeXt
from benchmarks.roofline import rates
from benchmarks.runner.step import Step
from benchmarks.shapes.cases import Candidate, Case

_SEARCH_SECONDS = 0.06  # spent on each way of each distinct shape


def build_gemms(case: Case, candidate: Candidate) -> Step:
    """Return the step that runs a model's GEMMs, each in the fastest way for its shape."""
    dtype = getattr(torch, candidate.dtype)
    with torch.inference_mode():
        gemms = record_gemms(case, dtype)
        distinct = {gemm.shape: gemm.ways for gemm in gemms}
        fastest = {shape: _fastest(ways) for shape, ways in distinct.items()}
        chosen = [gemm.ways[fastest[gemm.shape]] for gemm in gemms]

        parts = []
        for kind in ("linear", "convolution", "depthwise", "attention"):
            mine = [gemm for gemm in gemms if gemm.kind == kind]
            ways = [gemm.ways[fastest[gemm.shape]] for gemm in mine]
            seconds = rates.median_seconds(functools.partial(_run, ways), 0.3)
            rate = sum(gemm.flops for gemm in mine) / seconds / 1e9
            parts.append(f"{kind} {1e3 * seconds:.1f} ms at {rate:.0f} GFLOP/s")
        counts: dict[str, int] = {}
        for shape, way in fastest.items():
            key = f"{shape[0]} by {way}"
            counts[key] = counts.get(key, 0) + 1
        note = "; ".join(parts) + "; fastest ways: "
        note += ", ".join(f"{way} ({count} shapes)" for way, count in sorted(counts.items()))

    def run() -> None:
        with torch.inference_mode():
            _run(chosen)

    return Step(run, note=note)


def _fastest(ways: dict[str, Way]) -> str:
    if len(ways) == 1:
        return next(iter(ways))
    return min(ways, key=lambda name: rates.median_seconds(ways[name], _SEARCH_SECONDS))


def _run(ways: list[Way]) -> None:
    for way in ways:
        way()


def record_gemms(case: Case, dtype: torch.dtype) -> list[Gemm]:
    """Return every GEMM of a step, in order: of one forward pass, and of its gradients."""
    # A backbone's GEMMs do not depend on the size it was built for, so the quickest is taken.
    sizes: dict[str, Any] = {"img_size": case.size[0]}
    if case.dense:
        sizes = {"img_size": 224, "dense": "interpolate"}
    model = PublishedTransNeXt(**published_arguments(case.subject), **sizes).eval()
    gemms: list[Gemm] = []
    backward = case.direction == "both"
    inputs: dict[tuple[object, ...], Tensor] = {}

    def like(shape: tuple[int, ...]) -> Tensor:
        """One tensor for all inputs of a shape, as an activation just written would be."""
        if shape not in inputs:
            inputs[shape] = torch.randn(shape).to(dtype)
        return inputs[shape]

    def on_linear(module: nn.Linear, arguments: tuple[Tensor, ...], _: object) -> None:
        x = like(tuple(arguments[0].shape))
        add_linear(x, module.weight.to(dtype), module.bias.to(dtype))

    def add_linear(x: Tensor, weight: Tensor, bias: Tensor) -> None:
        gemms.append(linear_gemm(x, weight, bias))
        if backward:
            gemms.extend(linear_gradients(x, weight, like))

    def on_convolution(module: nn.Conv2d, arguments: tuple[Tensor, ...], _: object) -> None:
        weight, bias, shape = module.weight.to(dtype), module.bias.to(dtype), arguments[0].shape
        if module.kernel_size == (1, 1):  # on tokens it is a Linear
            x = like((shape[0], shape[2] * shape[3], shape[1]))
            add_linear(x, weight.flatten(1), bias)
            return
        first = not gemms
        gemms.append(convolution_gemm(like(tuple(shape)), weight, bias, module, like))
        if backward:
            gemms.extend(
                convolution_gradients(like(tuple(shape)), weight, module, like, to_image=not first)
            )

    def on_conv_glu(module: ConvolutionalGLU, arguments: tuple, _: object) -> None:
        # Its depthwise convolution is called without its module.
        x, (height, width) = arguments
        depthwise = module.dwconv.dwconv
        on_convolution(depthwise, (x.new_empty(len(x), depthwise.groups, height, width),), None)

    def on_attention(module: nn.Module, arguments: tuple, _: object) -> None:
        x, pool_grid = arguments[0], arguments[2]
        rows, keys = x.shape[0] * module.heads, pool_grid[0] * pool_grid[1]
        gemms.extend(attention_gemms(like, rows, x.shape[1], keys, module.head_dim))
        if backward:
            gemms.extend(attention_gradients(like, rows, x.shape[1], keys, module.head_dim))

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "cpb" not in name:
            module.register_forward_hook(on_linear)
        elif isinstance(module, nn.Conv2d):
            module.register_forward_hook(on_convolution)
        elif isinstance(module, ConvolutionalGLU):
            module.register_forward_hook(on_conv_glu)
        elif isinstance(module, AggregatedAttention | GlobalAttention):
            module.register_forward_hook(on_attention)
    model(torch.randn(case.batch, 3, *case.size))
    return gemms


def linear_gemm(x: Tensor, weight: Tensor, bias: Tensor) -> Gemm:
    """Return the GEMM of a Linear of ``x [..., in]`` with ``weight [out, in]``."""
    rows = x.numel() // x.shape[-1]
    tokens = x.reshape(rows, x.shape[-1])
    transposed = weight.t().contiguous()
    ways: dict[str, Way] = {
        "linear": lambda: F.linear(x, weight, bias),
        "transposed weight": lambda: torch.addmm(bias, tokens, transposed),
    }
    side = next(d for d in range(math.isqrt(rows), 0, -1) if rows % d == 0)
    if side > 1:
        image = tokens.view(1, rows // side, side, -1).permute(0, 3, 1, 2)
        kernel = weight[:, :, None, None].contiguous(memory_format=torch.channels_last)
        ways["1x1 convolution"] = lambda: F.conv2d(image, kernel, bias)
    shape = ("linear", rows, *weight.shape)
    return Gemm("linear", shape, 2.0 * rows * weight.numel(), ways)


def convolution_gemm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    module: nn.Conv2d,
    like: Like,
) -> Gemm:
    """Return the convolution of ``x [B, C, H, W]``, depthwise or dense."""
    options = {"stride": module.stride, "padding": module.padding, "groups": module.groups}
    ways: dict[str, Way] = {}
    for name, layout in (
        ("contiguous", torch.contiguous_format),
        ("channels last", torch.channels_last),
    ):
        image = x.contiguous(memory_format=layout)
        kernel = weight.contiguous(memory_format=layout)
        ways[name] = functools.partial(F.conv2d, image, kernel, bias, **options)
    batch, channels, height, width = x.shape
    depthwise = module.groups > 1
    if depthwise:  # the whole gated unit, where that is faster than the convolution in it
        packed = like((batch, height * width, 2 * channels))
        grid = (height, width)
        ways["transnext_ops.conv_glu"] = lambda: ops.conv_glu(packed, weight, bias, grid=grid)
    kind = "depthwise" if depthwise else "convolution"
    outputs = height * width // math.prod(module.stride)
    shape = (kind, *x.shape, *weight.shape)
    return Gemm(kind, shape, 2.0 * batch * outputs * weight.numel(), ways)


def attention_gemms(like: Like, rows: int, length: int, keys: int, dim: int) -> list[Gemm]:
    """Return QKᵀ and PV over the pooled keys, for ``rows`` images × heads."""
    query, key, value = like((rows, length, dim)), like((rows, dim, keys)), like((rows, keys, dim))
    weights = like((rows, length, keys))
    flops = 2.0 * rows * length * keys * dim
    return [
        Gemm("attention", ("attention", *left.shape, *right.shape), flops, {"bmm": way})
        for left, right, way in (
            (query, key, functools.partial(torch.bmm, query, key)),
            (weights, value, functools.partial(torch.bmm, weights, value)),
        )
    ]
