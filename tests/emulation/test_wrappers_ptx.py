"""The inline PTX of cpp/device, compiled by nvcc and executed, against NumPy.

Needs nvcc and the PTX emulator (a folder named by TRANSNEXT_PTXEMU, ../shared/tools/ptxemu beside
the repository by default). tests/emulation/test_wrappers.py runs the same kernels and the same
comparisons in the project's own emulation.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import wrapper_cases as cases

ROOT = Path(__file__).resolve().parents[2]
EMULATOR = Path(os.environ.get("TRANSNEXT_PTXEMU", ROOT.parent / "shared" / "tools" / "ptxemu"))
SOURCE = """
#include "emulation/wrapper_kernels.cuh"
namespace transnext {
template __global__ void product_by_fragments<Half>(ProductParams);
template __global__ void product_by_fragments<BFloat16>(ProductParams);
template __global__ void product_by_ldmatrix<Half>(ProductParams);
template __global__ void product_by_ldmatrix<BFloat16>(ProductParams);
}
"""


@pytest.fixture(scope="module")
def emulator() -> Iterator[ModuleType]:
    nvcc = shutil.which(os.environ.get("CUDACXX") or "nvcc")
    if nvcc is None:
        pytest.skip("no CUDA compiler: nvcc is not on PATH")
    if not (EMULATOR / "ptxemu.py").exists():
        pytest.skip(f"no PTX emulator in {EMULATOR} (set TRANSNEXT_PTXEMU)")
    # It builds itself beside its sources, which may be read-only: use a copy that later runs find.
    copy = ROOT / "build" / "ptxemu"
    shutil.copytree(EMULATOR, copy, ignore=shutil.ignore_patterns("_build"), dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(copy))
        patch.setenv("NVCC", nvcc)
        yield importlib.import_module("ptxemu")


@pytest.fixture(scope="module", params=["sm_75", "sm_80", "sm_90"])
def run(request, emulator) -> Any:
    folders = (ROOT / "cpp", ROOT / "cpp" / "include", ROOT / "tests")
    flags = ["-std=c++17", *(f"-I{folder}" for folder in folders)]
    module = emulator.Module(emulator.nvcc(SOURCE, arch=request.param, flags=flags))

    def run(kernel: str, threads: int, shared: int, arrays: list, numbers: list[int]) -> None:
        name = module.find(cases.mangled(kernel))
        params = cases.params([module.ptr(array) for array in arrays], numbers)
        module.launch(name, grid=1, block=threads, shared=shared, args=[params], strict=True)
        module.release()

    return run


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.__name__)
def test_wrapper(run, case) -> None:
    case(run)
