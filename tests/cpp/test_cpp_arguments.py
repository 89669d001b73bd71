"""The compiled module's boundary: what it takes as a tensor, what it refuses, who frees what."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import weakref

import pytest
import torch
from torch.utils.dlpack import to_dlpack

from transnext_ops.backends import cpp_backend, dlpack
from transnext_ops.backends.registry import Call

_cpp = pytest.importorskip("transnext_ops._cpp")

GRID, POOL = (4, 3), (2, 1)


def pool(x, out, grid=GRID, pool_grid=POOL, **keywords) -> None:
    _cpp.gelu_pool(to_dlpack(x), to_dlpack(out), grid, pool_grid, **keywords)


def test_a_tensor_that_requires_grad_is_read() -> None:
    x = torch.randn(2, 12, 5, requires_grad=True)
    expected = cpp_backend.gelu_pool(x.detach(), GRID, POOL)
    assert torch.equal(cpp_backend.gelu_pool(x, GRID, POOL), expected)


def test_strided_inputs_and_outputs_are_used_in_place() -> None:
    wide = torch.full((2, 12, 11), float("nan"))
    wide[:, :, 1::2] = torch.randn(2, 12, 5)
    holes = torch.full((2, 2, 10), 7.0)
    pool(wide[:, :, 1::2], holes[:, :, ::2])
    expected = cpp_backend.gelu_pool(wide[:, :, 1::2].contiguous(), GRID, POOL)
    assert torch.equal(holes[:, :, ::2], expected)
    assert bool((holes[:, :, 1::2] == 7).all())


def test_capsules_of_both_dlpack_generations_are_read() -> None:
    x, out = torch.randn(1, 12, 5), torch.empty(1, 2, 5)
    versioned = x.__dlpack__(max_version=(1, 0))
    assert "dltensor_versioned" in repr(versioned)
    _cpp.gelu_pool(versioned, out.__dlpack__(), GRID, POOL)
    assert torch.equal(out, cpp_backend.gelu_pool(x, GRID, POOL))


@pytest.mark.skipif(not dlpack.IN_PLACE, reason="this PyTorch has no DLPack C interface")
def test_tensors_are_read_without_capsules() -> None:
    wide = torch.randn(2, 12, 11)
    x, out = torch.nn.Parameter(wide[:, :, 1::2]), torch.empty(2, 2, 5)
    for _ in range(3):  # types by turns: one is remembered
        _cpp.gelu_pool(x, out, GRID, POOL)
        expected = torch.empty(2, 2, 5)
        _cpp.gelu_pool(to_dlpack(x), to_dlpack(expected), GRID, POOL)
        assert torch.equal(out, expected)


def test_an_older_pytorch_passes_capsules(monkeypatch) -> None:
    x = torch.randn(2, 12, 5)
    expected = cpp_backend.gelu_pool(x, GRID, POOL)
    monkeypatch.setattr(dlpack, "IN_PLACE", False)
    assert "capsule" in repr(dlpack.exchanged((x,))[0])
    assert torch.equal(cpp_backend.gelu_pool(x, GRID, POOL), expected)


def test_tensors_without_memory_are_refused() -> None:
    x, out = torch.empty(1, 12, 5, device="meta"), torch.empty(1, 2, 5)
    with pytest.raises((BufferError, RuntimeError, ValueError)):
        _cpp.gelu_pool(x, out, GRID, POOL)


def test_a_capsule_stays_its_owners() -> None:
    """The module borrows: a capsule can be passed again, and be consumed by somebody else after."""
    x, out = torch.randn(1, 12, 5), torch.empty(1, 2, 5)
    capsule = to_dlpack(x)
    for _ in range(2):
        _cpp.gelu_pool(capsule, to_dlpack(out), GRID, POOL)
    assert '"dltensor"' in repr(capsule)
    again = torch.utils.dlpack.from_dlpack(capsule)
    assert again.data_ptr() == x.data_ptr()
    with pytest.raises(TypeError, match="x is PyCapsule, needs a DLPack capsule"):
        _cpp.gelu_pool(capsule, to_dlpack(out), GRID, POOL)


def test_a_tensor_is_let_go() -> None:
    """A capsule given to a call, good or bad, keeps its tensor alive no longer than itself."""
    references = []

    class Watched(torch.Tensor):
        pass

    for out_channels in (5, 6):
        x = torch.randn(1, 12, 5).as_subclass(Watched)
        references.append(weakref.ref(x))
        try:
            pool(x, torch.empty(1, 2, out_channels))
        except ValueError:
            assert out_channels == 6
        del x
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_memory_does_not_grow() -> None:
    """Thousands of calls, good and bad, leave the process as large as it was."""
    code = f"""
import importlib.util, resource
import numpy as np
spec = importlib.util.spec_from_file_location("_cpp", {_cpp.__file__!r})
_cpp = importlib.util.module_from_spec(spec)
spec.loader.exec_module(_cpp)
x, out = np.ones((64, 12, 50), "f4"), np.empty((64, 2, 50), "f4")
def calls(count):
    for _ in range(count):
        _cpp.gelu_pool(x.__dlpack__(), out.__dlpack__(), (4, 3), (2, 1), threads=2)
        try:
            _cpp.gelu_pool(x.copy().__dlpack__(), out.__dlpack__(), (4, 4), (2, 1))
        except ValueError:
            pass
calls(200)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
calls(2000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 20_000  # KiB; 2000 leaked copies would be 300,000


X, OUT = torch.empty(1, 12, 5), torch.empty(1, 2, 5)


@pytest.mark.parametrize(
    ("x", "out", "sizes", "message"),
    [
        (X, torch.empty(1, 2, 6), {}, "out has shape [1, 2, 6], needs [1, 2, 5]"),
        (X[:, :11], OUT, {}, "x has shape [1, 11, 5], needs [any, 12, any]"),
        (X[0], OUT, {}, "x has shape [12, 5], needs [any, 12, any]"),
        (X, OUT.half(), {}, "out is float16, needs float32"),
        (X.int(), OUT, {}, "x is int32, needs a floating-point type"),
        (X.long(), OUT, {}, "x has element type (code 0, 64 bits)"),
        (X, OUT, {"grid": (0, 3)}, "grid is (0, 3), needs two positive"),
        (X, OUT, {"grid": (2**40, 2**40)}, "grid is (1099511627776,"),
    ],
)
def test_what_does_not_fit_is_named(x, out, sizes, message) -> None:
    with pytest.raises(ValueError, match=re.escape("gelu_pool: " + message)):
        pool(x, out, **sizes)


def test_what_is_no_tensor_is_named() -> None:
    with pytest.raises(TypeError, match="gelu_pool: x is list, needs a DLPack capsule"):
        _cpp.gelu_pool([1.0], to_dlpack(torch.empty(1, 2, 5)), GRID, POOL)
    with pytest.raises(TypeError, match="gelu_pool: x is NoneType"):
        _cpp.gelu_pool(None, to_dlpack(torch.empty(1, 2, 5)), GRID, POOL)


def attention(**changes):
    token = torch.randn(1, 4, 1, 8)
    arguments = {
        **dict.fromkeys(("q", "k", "v"), token),
        **dict.fromkeys(("k_pool", "v_pool"), token[:, :1]),
        **dict.fromkeys(("query_embedding", "local_bias", "col_weights", "tokens", "token_bias")),
        "scale": torch.ones(1),
        "pool_bias": torch.zeros(1, 2, 3),
        "row_map": int_map(2, 1),
        "col_map": int_map(2, 1, 1),
        "grid": (2, 2),
        "pool_grid": (1, 1),
        "window_size": 3,
    }
    return cpp_backend.aggregated_attention(**{**arguments, **changes})


def int_map(*shape: int, value: int = 0) -> torch.Tensor:
    return torch.full(shape, value, dtype=torch.int32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"row_map": int_map(2, 1, value=2)},
            "row_map has the index 2, the table's axis has size 2",
        ),
        ({"col_map": int_map(2, 1, 1, value=-1)}, "col_map has the index -1"),
        ({"col_map": int_map(2, 1, 2)}, "col_weights is None, but col_map has several taps"),
        ({"row_map": torch.zeros(2, 1)}, "row_map is float32, needs int32"),
        ({"scale": torch.ones(1).double()}, "scale is float64, needs float32"),
        ({"tokens": torch.zeros(1, 8, 4)}, "tokens has shape [1, 8, 4], needs [1, 8, 9]"),
        ({"window_size": 0}, "k and v must be None if window_size is 0"),
        ({"window_size": -1}, "window_size is -1"),
        ({"window_size": 10**6}, "window_size is 1000000, needs 0 to 4096"),
        ({"v_pool": torch.randn(1, 1, 1, 8).bfloat16()}, "v_pool is bfloat16, needs float32"),
    ],
)
def test_attention_checks_what_would_read_outside_its_tensors(changes, message) -> None:
    attention()
    with pytest.raises(ValueError, match=re.escape(message)):
        attention(**changes)


def test_the_backend_says_what_it_cannot_run() -> None:
    assert cpp_backend.unavailable() is None
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert cpp_backend.unsupported(Call("gelu_pool", cpu, torch.bfloat16)) is None
    assert "torch.int8" in cpp_backend.unsupported(Call("gelu_pool", cpu, torch.int8))
    assert "got meta" in cpp_backend.unsupported(
        Call("gelu_pool", torch.device("meta"), torch.float32)
    )
    reason = cpp_backend.unsupported(Call("conv_glu", cuda, torch.float32))
    if _cpp.cuda_architectures is None:
        assert "built without CUDA kernels; rebuild" in reason
    else:
        assert reason is None
        assert "torch.float64" in cpp_backend.unsupported(Call("gelu_pool", cuda, torch.float64))
