"""The CUDA kernels of gelu_pool without a GPU: nvcc's PTX of the shipped source, run on the CPU.

The kernels run under the compiled library's own launch plan in a PTX emulator that reports every
race, uninitialised shared read and access outside the arrays. Needs nvcc and the emulator (a folder
named by TRANSNEXT_PTXEMU, ../shared/tools/ptxemu beside the repository by default).
"""

from __future__ import annotations

import ctypes
import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import transnext_reference as reference
from tolerances import tolerance

_cpp = pytest.importorskip("transnext_ops._cpp")

ROOT = Path(__file__).resolve().parents[2]
EMULATOR = Path(os.environ.get("TRANSNEXT_PTXEMU", ROOT.parent / "shared" / "tools" / "ptxemu"))
DTYPES = {"float32": 2, "float16": 0, "bfloat16": 1}  # transnext::DType
MANGLED = {"float32": "If", "float16": "INS_4Half", "bfloat16": "INS_8BFloat16"}


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


@pytest.fixture(scope="module", params=["sm_75", "sm_90"])
def module(request, emulator) -> Any:
    includes = [f"-I{ROOT / 'cpp' / 'include'}", f"-I{ROOT / 'cpp'}"]
    source = str(ROOT / "cpp" / "cuda" / "gelu_pool.cu")
    flags = ["-std=c++17", "-lineinfo", *includes]
    return emulator.Module(emulator.nvcc(source, arch=request.param, flags=flags))


class View(ctypes.Structure):
    """transnext::View<3>"""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("dtype", ctypes.c_int),
        ("shape", ctypes.c_longlong * 3),
        ("stride", ctypes.c_longlong * 3),
    )


class Grid(ctypes.Structure):
    _fields_ = (("height", ctypes.c_longlong), ("width", ctypes.c_longlong))


class Params(ctypes.Structure):
    """transnext::GeluPoolParams: x, out."""

    _fields_ = (("x", View), ("out", View), ("grid", Grid), ("pool_grid", Grid))


class BackwardParams(ctypes.Structure):
    """transnext::GeluPoolBackwardParams: d_out, x, d_x."""

    _fields_ = (
        ("d_out", View),
        ("x", View),
        ("d_x", View),
        ("grid", Grid),
        ("pool_grid", Grid),
    )


def bits_of(tensor: torch.Tensor) -> np.ndarray:
    """Return the tensor's memory as an array of its own shape and strides."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def view(module: Any, tensor: torch.Tensor, dtype: str) -> View:
    address = module.ptr(bits_of(tensor))
    return View(address, DTYPES[dtype], tensor.shape, tensor.stride())


def launch(module: Any, kernel: str, dtype: str, plan: tuple, params: ctypes.Structure) -> Any:
    grid, block, shared = plan
    name = module.find(f"{kernel}{MANGLED[dtype]}")
    result = module.launch(
        name, grid=grid, block=block, shared=shared, args=[bytes(params)], strict=True
    )
    module.release()
    return result


def relative_error(actual: torch.Tensor, expected: np.ndarray) -> float:
    difference = np.linalg.norm(actual.double().numpy() - expected)
    return float(difference / max(np.linalg.norm(expected), 1e-30))


def activation(generator: np.random.Generator, *shape: int, dtype: str, packed: bool):
    """Return values that fill a tensor, or every channel but one of a wider one."""
    tensor_dtype = getattr(torch, dtype)
    values = torch.from_numpy(generator.standard_normal(shape)).to(tensor_dtype)
    if not packed:
        return values
    wide = torch.full((*shape[:-1], shape[-1] + 1), float("nan"), dtype=tensor_dtype)
    wide[..., 1:] = values
    return wide[..., 1:]


# batch, grid, pool grid, channels, strided
EDGES = [
    (2, (7, 5), (3, 2), 33, True),  # overlapping bins, a last tile of one channel
    (1, (1, 1), (1, 1), 1, False),
    (1, (1, 9), (1, 4), 8, True),
    (3, (4, 4), (4, 4), 24, False),  # bins of one token
    (1, (8, 12), (1, 1), 40, False),  # a bin of more cells than threads
    (2, (6, 4), (3, 2), 72, False),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("edge", EDGES, ids=str)
def test_kernels_agree_with_the_reference(module, edge: tuple, dtype: str) -> None:
    batch, grid, pool_grid, channels, packed = edge
    generator = np.random.default_rng(1)
    length, pooled = grid[0] * grid[1], pool_grid[0] * pool_grid[1]
    x = activation(generator, batch, length, channels, dtype=dtype, packed=packed)
    d_out = activation(generator, batch, pooled, channels, dtype=dtype, packed=packed)
    out = torch.full((batch, pooled, channels), float("nan"), dtype=x.dtype)
    d_x = torch.full((batch, length, channels), float("nan"), dtype=x.dtype)
    sizes = (Grid(*grid), Grid(*pool_grid))

    params = Params(view(module, x, dtype), view(module, out, dtype), *sizes)
    plan = _cpp.gelu_pool_plan(batch, channels, grid, pool_grid)
    launch(module, "gelu_pool_forward", dtype, plan, params)
    values, gradients = x.double().numpy(), d_out.double().numpy()
    expected = reference.gelu_pool(values, grid=grid, pool_grid=pool_grid)
    assert relative_error(out, expected) <= tolerance(x.dtype, 10)

    views = (view(module, d_out, dtype), view(module, x, dtype), view(module, d_x, dtype))
    backward_plan = _cpp.gelu_pool_backward_plan(batch, channels, grid)
    launch(module, "gelu_pool_backward", dtype, backward_plan, BackwardParams(*views, *sizes))
    expected = reference.gelu_pool_backward(gradients, values, grid=grid, pool_grid=pool_grid)["x"]
    assert relative_error(d_x, expected) <= tolerance(x.dtype, 10, gradient=True)


def test_accesses_are_whole_sectors(module) -> None:
    """Warps read and write runs of consecutive channels, every byte of x once."""
    batch, grid, pool_grid, channels = 1, (8, 8), (2, 2), 64
    x, out = torch.randn(batch, 64, channels), torch.empty(batch, 4, channels)
    params = Params(
        view(module, x, "float32"), view(module, out, "float32"), Grid(*grid), Grid(*pool_grid)
    )
    plan = _cpp.gelu_pool_plan(batch, channels, grid, pool_grid)
    result = launch(module, "gelu_pool_forward", "float32", plan, params)
    assert result.stats["global_load"]["bytes"] == x.numel() * 4
    assert result.coalescing("global_load") == 1.0
    assert result.coalescing("global_store") == 1.0


def test_the_grid_may_be_smaller_than_the_work(module) -> None:
    """Kernels step on by the grid's size, as the largest tensors need."""
    x, out = torch.randn(2, 30, 40), torch.full((2, 4, 40), float("nan"))
    grid, pool_grid = (5, 6), (2, 2)
    params = Params(
        view(module, x, "float32"), view(module, out, "float32"), Grid(*grid), Grid(*pool_grid)
    )
    launch(module, "gelu_pool_forward", "float32", ((3, 1, 1), (32, 4, 1), 0), params)
    expected = reference.gelu_pool(x.numpy(), grid=grid, pool_grid=pool_grid)
    assert relative_error(out, expected) <= tolerance(torch.float32, 10)
