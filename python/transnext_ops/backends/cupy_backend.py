"""CUDA kernels compiled at run time by CuPy (NVRTC), for machines without a CUDA compiler.

This version registers the backend and tells what it lacks; it holds no kernel, so every call it is
asked for by name raises and ``auto`` passes it over.
"""

from __future__ import annotations

import importlib.util

import torch

from transnext_ops.backends.registry import Call


def unavailable() -> str | None:
    """Say why CuPy kernels cannot run in this process, without importing cupy."""
    if importlib.util.find_spec("cupy") is None:
        return "the package cupy is not installed (pip install 'transnext[cupy]')"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device (torch.cuda.is_available() is False)"
    return None


def unsupported(call: Call) -> str | None:
    """Say why a call cannot run: no operator has a CuPy kernel in this version."""
    if call.device.type != "cuda":
        return f"it runs on CUDA tensors only, got {call.device.type}"
    return f"it has no kernel for {call.op} in this version; use backend 'torch' on CUDA"
