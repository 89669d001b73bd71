"""Linear layers on tokens; in training on CPUs, by the faster of PyTorch's two kernels.

A Linear is a 1x1 convolution of the channels-last map that the tokens are, without a copy. PyTorch
runs float32 Linears in its BLAS, and such convolutions, forward and backward, in oneDNN, which
fuses the bias into the GEMM's epilogue; ``aten::addmm`` first writes it to the whole output, and
computes its gradient in a pass of its own. docs/performance.md has the measurements. Convolutions
won on x86 processors with AVX and lost on Intel's with AMX. Those and others keep the ordinary
Linear, unless ``TRANSNEXT_MODELS_LINEAR`` in the environment says otherwise (``convolution`` or
``linear``). Nothing is timed at run time, so results do not depend on timing.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .calls import is_tensor, may_stand_in, recorded
from .plain import plain_linear

__all__ = ["linear", "linear_layer"]

_FEWEST_ROWS = 256  # below, the views around the convolution cost more than it gains


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``x [B, N, depth]`` by ``weight [columns, depth]`` and ``bias``: ``[B, N, columns]``.

    ``TRANSNEXT_MODELS_LINEAR=linear`` or ``torch.backends.mkldnn.flags(enabled=False)`` forces
    :func:`torch.nn.functional.linear`.
    """
    if not _convolution_is_faster(x, weight):
        return F.linear(x, weight, bias)
    batch, tokens, depth = x.shape
    pixels = x.view(1, batch * tokens, 1, depth).permute(0, 3, 1, 2)
    y = F.conv2d(pixels, weight[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(batch, tokens, weight.shape[0])


def linear_layer(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``, through :func:`linear` where nothing but speed tells the two apart."""
    if plain_linear(layer) and may_stand_in(x):
        return linear(x, layer.weight, layer.bias)  # type: ignore[arg-type]
    return layer(x)


def _convolution_is_faster(x: Tensor, weight: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and not recorded()
        and type(x) is Tensor
        and is_tensor(weight)
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.dim() == 3
        and x.shape[0] * x.shape[1] >= _FEWEST_ROWS
        and x.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
        and torch.get_num_threads() > 1  # on one, PyTorch keeps such convolutions from oneDNN
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and _convolutions_win_here()
    )


def _convolutions_win_here() -> bool:
    """Whether convolutions are faster on this processor, or the environment says so."""
    chosen = os.environ.get("TRANSNEXT_MODELS_LINEAR", "")
    if chosen not in ("", "convolution", "linear"):
        raise ValueError(
            f"TRANSNEXT_MODELS_LINEAR: got {chosen!r}, needs 'convolution', 'linear' or nothing"
        )
    if chosen:
        return chosen == "convolution"
    return torch.backends.cpu.get_cpu_capability().startswith("AVX") and not _has_amx()


@functools.cache
def _has_amx(description: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether Linux says that the processor has AMX."""
    try:
        lines = description.read_text().splitlines()
    except OSError:  # another system
        return False
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return "amx_tile" in flags
