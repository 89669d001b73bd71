"""What the kernels of head dim 24, the published models', must keep to on every architecture."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tools.kernel_report.compilers import CompiledKernel

_OLDEST = 80  # tensor cores for both 16-bit types, asynchronous copies


def problems(kernel: CompiledKernel, occupancy: float | None) -> list[str]:
    """Return what is wrong with a compiled kernel; nothing if it may be slow.

    Parameters
    ----------
    occupancy : float or None
        Where it is known.
    """
    if kernel.architecture < _OLDEST or not is_limited(kernel.kernel):
        return []
    name = f"{kernel.kernel} sm_{kernel.architecture}"
    found = []
    if kernel.spill_stores or kernel.spill_loads:
        found.append(
            f"{name}: spills {kernel.spill_stores} bytes of registers, "
            f"reads {kernel.spill_loads} back"
        )
    elif kernel.stack_bytes:
        found.append(f"{name}: uses {kernel.stack_bytes} bytes of local memory")
    least = _least_occupancy(kernel.kernel)
    if occupancy is not None and occupancy < least:
        found.append(f"{name}: occupancy {occupancy:.0%}, needs {least:.0%}")
    return found


def is_compiled(kernel: str, architecture: int) -> bool:
    """Return whether the library has a kernel for an architecture (cpp/cmake/CudaKernels.cmake)."""
    newer = "attention" in kernel and _arguments(kernel)[0] in ("BFloat16", "TensorFloat32")
    return architecture >= _OLDEST or not newer


def _least_occupancy(kernel: str) -> float:
    if not has_head_dim(kernel):
        return 0.0
    if "forward" not in kernel:
        return 0.25
    return 0.12 if _arguments(kernel)[2] == "-1" else 0.33  # -1: windows other than 3x3


def is_limited(kernel: str) -> bool:
    """Return whether a kernel is one of head dim 24 or of any."""
    return not has_head_dim(kernel) or _arguments(kernel)[1] == "24"


def has_head_dim(kernel: str) -> bool:
    """Return whether a kernel is made for one head dim: its second template argument."""
    arguments = _arguments(kernel)
    return "attention" in kernel and len(arguments) > 1 and arguments[1].isdecimal()


def _arguments(kernel: str) -> Sequence[str]:
    return re.sub(r"[\s>]", "", kernel.partition("<")[2]).split(",")
