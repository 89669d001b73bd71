"""Runs PTX kernels (what nvcc or NVRTC makes of CUDA C++) on the CPU and checks them as they run.

    import numpy as np
    from tools import ptxemu
    module = ptxemu.Module(ptxemu.nvcc("kernel.cu", arch="sm_80"))     # or Module(ptx_text)
    result = module.launch("saxpy", grid=8, block=128, args=[x, y, np.float32(2), np.int32(1000)])
    print(result.summary())

See README.md beside this file.
"""

from tools.ptxemu.compilers import find_nvrtc, nvcc, nvrtc
from tools.ptxemu.library import unavailable
from tools.ptxemu.module import EmuError, Module, Ptr
from tools.ptxemu.narrow_floats import bf16_to_f32, f32_to_bf16, to_tf32
from tools.ptxemu.result import LaunchResult

__all__ = [
    "EmuError",
    "LaunchResult",
    "Module",
    "Ptr",
    "bf16_to_f32",
    "f32_to_bf16",
    "find_nvrtc",
    "nvcc",
    "nvrtc",
    "to_tf32",
    "unavailable",
]
