"""What the CuPy backend says it lacks, and what it hands to CuPy. It computes in tests/cpp."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from transnext_ops import BackendError
from transnext_ops.backends import cpp_backend, cupy_backend, kernel_sources, registry

CUDA = torch.device("cuda", 0)


@pytest.fixture
def found(monkeypatch) -> pytest.MonkeyPatch:
    """A machine that has all that is needed."""
    spec = importlib.machinery.ModuleSpec("cupy", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(cupy_backend, "_installed_version", lambda: "13.6.0")
    monkeypatch.setattr(cpp_backend, "unavailable", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return monkeypatch


def test_it_says_what_is_missing(found) -> None:
    assert cupy_backend.unavailable() is None
    found.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device" in cupy_backend.unavailable()
    found.setattr(kernel_sources, "folders", lambda: None)
    assert "source is missing" in cupy_backend.unavailable()
    found.setattr(cpp_backend, "unavailable", lambda: "not built")
    assert "compiled library: not built" in cupy_backend.unavailable()
    found.setattr(cupy_backend, "_installed_version", lambda: "12.3.0")
    assert "cupy is version 12.3.0, 13 or newer is needed" in cupy_backend.unavailable()
    found.setattr(importlib.util, "find_spec", lambda name: None)
    assert "cupy is not installed" in cupy_backend.unavailable()


def test_it_says_what_it_cannot_run() -> None:
    def reason(op: str, device: torch.device, dtype: torch.dtype) -> str | None:
        return cupy_backend.unsupported(registry.Call(op, device, dtype))

    assert reason("gelu_pool", CUDA, torch.bfloat16) is None
    assert "torch.float64" in str(reason("gelu_pool", CUDA, torch.float64))
    assert "CUDA tensors only, got cpu" in str(
        reason("gelu_pool", torch.device("cpu"), torch.float32)
    )
    assert "no CUDA kernel for nothing" in str(reason("nothing", CUDA, torch.float32))


def test_a_broken_cupy_is_an_error_of_the_backend(monkeypatch) -> None:
    def fail(name: str) -> Any:
        raise ImportError("libnvrtc.so.13: cannot open shared object file")

    monkeypatch.setattr(cupy_backend.importlib, "import_module", fail)
    with pytest.raises(BackendError, match=r"importing cupy fails: libnvrtc.so.13"):
        cupy_backend._cupy.__wrapped__()


@pytest.fixture
def modules(monkeypatch) -> Iterator[list[dict[str, Any]]]:
    """What RawModule was called with."""
    made: list[dict[str, Any]] = []

    def raw_module(**keywords: Any) -> Any:
        made.append(keywords)
        return SimpleNamespace(get_function=lambda name: object())

    monkeypatch.setattr(cupy_backend, "_cupy", lambda: SimpleNamespace(RawModule=raw_module))
    cupy_backend._kernel.cache_clear()
    yield made
    cupy_backend._kernel.cache_clear()


def test_each_instance_is_compiled_once_and_alone(modules) -> None:
    header, name = "cuda/kernels/pool/gelu_pool.cuh", "gelu_pool_forward<Half>"
    assert cupy_backend._kernel(header, name) is cupy_backend._kernel(header, name)
    cupy_backend._kernel(header, "gelu_pool_forward<float>")
    assert [made["name_expressions"] for made in modules] == [
        (name,), ("gelu_pool_forward<float>",),
    ]  # fmt: skip
    assert {made["backend"] for made in modules} == {"nvrtc"}


def test_cupys_cache_tells_versions_of_the_source_apart(modules, tmp_path, monkeypatch) -> None:
    """CuPy looks a module up by its text, in which headers are only named."""
    header = tmp_path / "cuda" / "kernels" / "kernel.cuh"
    header.parent.mkdir(parents=True)
    monkeypatch.setattr(kernel_sources, "folders", lambda: (tmp_path,))
    texts = []
    for content in ("one", "other", "one"):
        header.write_text(content)
        kernel_sources.digest.cache_clear()
        cupy_backend._kernel.cache_clear()
        cupy_backend._kernel("cuda/kernels/kernel.cuh", "kernel<float>")
        texts.append(modules[-1]["code"])
    kernel_sources.digest.cache_clear()
    assert texts[0] != texts[1]
    assert texts[0] == texts[2]
    assert modules[-1]["options"] == ("--std=c++17", f"-I{tmp_path}")


def test_a_checkouts_package_reads_the_checkout() -> None:
    folders = kernel_sources.folders()
    assert folders is not None
    for name in ("cuda/kernels/pool/gelu_pool.cuh", "transnext/tensor.h"):
        assert any((Path(folder) / name).exists() for folder in folders)
    names = kernel_sources.kernel_names()
    assert "gelu_pool_backward<BFloat16>" in names["gelu_pool"]
    assert all(name.endswith(">") for kernels in names.values() for name in kernels)
