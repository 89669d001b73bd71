"""The kernels of the PTX emulator's own tests, compiled by nvcc and by NVRTC."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptx_emulator import emulator, kept
from tools import ptxemu

KERNELS = Path(__file__).parent / "ptxemu_kernels"
# The kernels use bfloat16, TF32 and reductions of a warp, which sm_80 was the first to have.
COMPILERS = [(compiler, arch) for compiler in ("nvcc", "nvrtc") for arch in ("sm_80", "sm_90")]


@pytest.fixture(scope="session", params=COMPILERS, ids=lambda pair: "-".join(pair))
def module(request: pytest.FixtureRequest) -> ptxemu.Module:
    """All kernels, as a compiler translates them for an architecture."""
    compiler, arch = request.param
    if compiler == "nvcc" and shutil.which(os.environ.get("NVCC") or "nvcc") is None:
        pytest.skip("no CUDA compiler: nvcc is not on PATH")
    if compiler == "nvrtc" and ptxemu.find_nvrtc() is None:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc")
    files = [KERNELS / "prelude.cuh", *sorted(KERNELS.glob("*.cu"))]
    source = "\n".join(path.read_text() for path in files)
    translate = getattr(emulator(), compiler)
    ptx = kept(f"{compiler} {arch} {source}", lambda: translate(source, arch))
    return emulator().Module(ptx)


@pytest.fixture
def launch(module: ptxemu.Module) -> Callable[..., ptxemu.LaunchResult]:
    return module.launch


@pytest.fixture
def strict(module: ptxemu.Module) -> Callable[..., ptxemu.LaunchResult]:
    """A launch in which any diagnostic is an error."""

    def run(name: str, grid: Any, block: Any, args: Any, **options: Any) -> ptxemu.LaunchResult:
        return module.launch(name, grid, block, args, strict=True, **options)

    return run


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)
