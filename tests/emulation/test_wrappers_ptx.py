"""The inline PTX of cpp/cuda/kernels, compiled by nvcc and executed, against NumPy.

Needs nvcc. tests/emulation/test_wrappers.py runs the same kernels and the same comparisons in the
project's own emulation.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest

pytest.importorskip("transnext_ops._cpp")

import wrapper_cases as cases

from ptx_emulator import ROOT, emulator

SOURCE = """
#include "emulation/wrapper_kernels.cuh"
namespace transnext {
template __global__ void product_by_fragments<Half>(ProductParams);
template __global__ void product_by_fragments<BFloat16>(ProductParams);
template __global__ void product_by_ldmatrix<Half>(ProductParams);
template __global__ void product_by_ldmatrix<BFloat16>(ProductParams);
}
"""


@pytest.fixture(scope="module", params=["sm_75", "sm_80", "sm_90"])
def run(request) -> Any:
    nvcc = shutil.which(os.environ.get("CUDACXX") or "nvcc")
    if nvcc is None:
        pytest.skip("no CUDA compiler: nvcc is not on PATH")
    folders = (ROOT / "cpp", ROOT / "cpp" / "include", ROOT / "tests")
    flags = ["-std=c++17", *(f"-I{folder}" for folder in folders)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVCC", nvcc)
        text = emulator().nvcc(SOURCE, arch=request.param, flags=flags)
    module = emulator().Module(text)

    def run(kernel: str, threads: int, shared: int, arrays: list, numbers: list[int]) -> None:
        name = module.find(cases.mangled(kernel))
        params = cases.params([module.ptr(array) for array in arrays], numbers)
        module.launch(name, grid=1, block=threads, shared=shared, args=[params], strict=True)
        module.release()

    return run


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.__name__)
def test_wrapper(run, case) -> None:
    case(run)
