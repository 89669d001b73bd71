"""What the machine can do, measured: multiply-adds per second and bytes copied per second."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F


def median_seconds(function: Callable[[], object], budget: float = 0.2) -> float:
    """Return the median seconds of a function called for about ``budget`` seconds, once warm."""
    function()
    function()
    times: list[float] = []
    end = time.perf_counter() + budget
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def best_gemm() -> tuple[Callable[[], object], float]:
    """Return the GEMM that reaches the float32 peak, and its flops.

    The best rate of large GEMMs in cache-friendly shapes, by the BLAS or by oneDNN.
    """
    found: list[tuple[float, Callable[[], object], float]] = []
    with torch.no_grad():
        for rows, inner, outer in ((2048, 1024, 1024), (4096, 512, 512), (3136, 288, 1152)):
            x, weight = torch.randn(rows, inner), torch.randn(inner, outer)
            out = torch.empty(rows, outer)
            side = math.isqrt(rows) if math.isqrt(rows) ** 2 == rows else 64
            image = x.view(1, rows // side, side, inner).permute(0, 3, 1, 2)
            kernel = weight.t()[:, :, None, None].contiguous(memory_format=torch.channels_last)
            flops = 2.0 * rows * inner * outer
            for way in (
                functools.partial(torch.mm, x, weight, out=out),
                functools.partial(F.conv2d, image, kernel),
            ):
                found.append((flops / median_seconds(way), way, flops))
    _, way, flops = max(found, key=lambda entry: entry[0])
    return way, flops


def copy(moved: float) -> tuple[Callable[[], object], float]:
    """Return a copy that reads and writes about ``moved`` bytes together, and its bytes.

    A copy that fits a cache runs at that cache's rate, so the size matters.
    """
    size = 2 ** max(14, min(30, round(math.log2(max(moved, 1.0)))))
    source = torch.ones(size // 8)
    target = torch.empty_like(source)
    return functools.partial(target.copy_, source), float(size)
