"""Linear layers on tokens; in training on CPUs, by the fastest of the ways there are.

PyTorch runs float32 Linears in its BLAS, where ``aten::addmm`` first writes the bias to the whole
output, and computes its gradient in a pass of its own. There are two other ways:

- A Linear is a 1x1 convolution of the channels-last map that the tokens are, without a copy.
  PyTorch runs such convolutions of float32, forward and backward, in oneDNN, which fuses the bias
  into the GEMM's epilogue. They won on x86 processors with AVX-512, where these have no AMX; with
  AVX2 their backward pass took twice as long as the BLAS.
- :mod:`.fused_linear` is the choice with AMX, for float32 and bfloat16, autocast included; and, for
  bfloat16 without AVX-512, with or without gradients, since PyTorch has no fit product there.

Other processors and types keep the ordinary Linear, unless ``TRANSNEXT_MODELS_LINEAR`` in the
environment says otherwise (``convolution``, ``fused`` or ``linear``). docs/performance.md has the
measurements. Nothing is timed at run time, so results do not depend on timing.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transnext_ops import get_backend
from transnext_ops.linear_products import has_tiles

from .calls import is_tensor, may_stand_in, product_type, recorded
from .fused_linear import fused_linear, has_fused_linear, only_ours
from .plain import plain_linear

__all__ = ["linear", "linear_layer"]

_FEWEST_ROWS = 256  # below, the views around the convolution cost more than it gains


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``x [B, N, depth]`` by ``weight [columns, depth]`` and ``bias``: ``[B, N, columns]``.

    ``TRANSNEXT_MODELS_LINEAR=linear`` or ``torch.backends.mkldnn.flags(enabled=False)`` forces
    :func:`torch.nn.functional.linear`.
    """
    dtype = _product_type(x, weight)
    way = "linear" if dtype is None else _way(dtype)
    if way == "linear":
        return F.linear(x, weight, bias)
    if way == "fused":
        assert dtype is not None
        return fused_linear(x, weight, bias, dtype)
    batch, tokens, depth = x.shape
    pixels = x.view(1, batch * tokens, 1, depth).permute(0, 3, 1, 2)
    y = F.conv2d(pixels, weight[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(batch, tokens, weight.shape[0])


def linear_layer(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``, through :func:`linear` where nothing but speed tells the two apart."""
    if plain_linear(layer) and may_stand_in(x):
        return linear(x, layer.weight, layer.bias)  # type: ignore[arg-type]
    return layer(x)


def _product_type(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """Return the type that is multiplied; None where only the ordinary Linear will do."""
    suitable = (
        not recorded()
        and type(x) is Tensor
        and is_tensor(weight)
        and x.device.type == "cpu"
        and x.dim() == 3
        and x.is_contiguous()
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )
    dtype = product_type(x, weight) if suitable else None
    if dtype is None:
        return None
    trains = torch.is_grad_enabled() and x.shape[0] * x.shape[1] >= _FEWEST_ROWS
    return dtype if trains or only_ours(dtype) else None


def _way(dtype: torch.dtype) -> Literal["convolution", "fused", "linear"]:
    """Return the way of products of `dtype`: what the environment says, or this processor."""
    chosen = os.environ.get("TRANSNEXT_MODELS_LINEAR", "")
    if chosen not in ("", "convolution", "fused", "linear"):
        raise ValueError(
            f"TRANSNEXT_MODELS_LINEAR: got {chosen!r}, needs 'convolution', 'fused', 'linear' or "
            "nothing"
        )
    if chosen == "linear":
        return "linear"
    if chosen == "fused" or (not chosen and _fused_wins_here(dtype)):
        return "fused" if has_fused_linear(dtype) else "linear"
    convolves = (
        dtype == torch.float32
        and torch.get_num_threads() > 1  # on one, PyTorch keeps such convolutions from oneDNN
        and (bool(chosen) or _convolutions_win_here())
    )
    return "convolution" if convolves else "linear"


def _fused_wins_here(dtype: torch.dtype) -> bool:
    if dtype == torch.float32:
        return _has_amx()
    return (has_tiles() or only_ours(dtype)) and get_backend() in ("auto", "cpp")


def _convolutions_win_here() -> bool:
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and not _has_amx()


@functools.cache
def _has_amx(description: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether Linux says that the processor has AMX."""
    try:
        lines = description.read_text().splitlines()
    except OSError:  # another system
        return False
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return "amx_tile" in flags
