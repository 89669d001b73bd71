"""Backend selection: names, scope, environment, explanations; an import that touches nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import torch

import transnext_ops as ops
from transnext_ops.backends import registry


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path), **environment},
        check=False,
    )


def pooled(backend: str | None = None) -> torch.Tensor:
    return ops.gelu_pool(torch.ones(1, 4, 2), grid=(2, 2), pool_grid=(1, 1), backend=backend)


def test_default_is_auto_and_set_backend_changes_it() -> None:
    assert ops.get_backend() == "auto"
    ops.set_backend("torch")
    assert ops.get_backend() == "torch"
    ops.set_backend("auto")
    assert ops.get_backend() == "auto"


def test_use_backend_nests_and_restores_after_an_exception() -> None:
    seen = []

    @ops.use_backend("reference")
    def fail() -> None:
        seen.append(ops.get_backend())
        raise KeyError

    with ops.use_backend("torch"):
        with pytest.raises(KeyError):
            fail()
        assert seen == ["reference"]
        assert ops.get_backend() == "torch"
    assert ops.get_backend() == "auto"


def test_use_backend_decorates() -> None:
    @ops.use_backend("reference")
    def inside() -> str:
        return ops.get_backend()

    assert [inside(), inside(), ops.get_backend()] == ["reference", "reference", "auto"]


def test_use_backend_is_seen_by_its_own_thread_only() -> None:
    seen: list[str] = []
    with ops.use_backend("torch"):
        thread = threading.Thread(target=lambda: seen.append(ops.get_backend()))
        thread.start()
        thread.join()
    assert seen == ["auto"]
    ops.set_backend("reference")  # process-wide: every thread sees it
    thread = threading.Thread(target=lambda: seen.append(ops.get_backend()))
    thread.start()
    thread.join()
    assert seen == ["auto", "reference"]


@pytest.mark.parametrize("name", ["Torch", "cuda", "", None, 3])
def test_unknown_names_are_refused_with_the_choices(name: object) -> None:
    with pytest.raises(ValueError, match=r"name: got .*needs one of 'auto', 'reference', 'torch'"):
        ops.set_backend(name)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs one of"), ops.use_backend(name):  # type: ignore
        pass
    if name is not None:  # None means: the one in force
        with pytest.raises(ValueError, match="backend: got"):
            pooled(backend=name)  # type: ignore[arg-type]


def test_an_unavailable_backend_raises_and_changes_nothing(monkeypatch) -> None:
    module = registry.backend_module("cupy")
    monkeypatch.setattr(module, "unavailable", lambda: "the package cupy is not installed (pip …)")
    registry._decide.cache_clear()
    for call in (lambda: ops.set_backend("cupy"), lambda: pooled("cupy")):
        with pytest.raises(ops.BackendError, match="cupy is not installed"):
            call()
    with pytest.raises(ops.BackendError, match="cupy"), ops.use_backend("cupy"):
        pass
    assert ops.get_backend() == "auto"
    assert "cupy" not in ops.available_backends()


def test_cupy_says_what_it_lacks() -> None:
    module = registry.backend_module("cupy")
    cuda = registry.Call("conv_glu", torch.device("cuda", 0), torch.float64)
    assert "no CUDA kernel of conv_glu for torch.float64" in module.unsupported(cuda)
    assert "CUDA tensors only" in module.unsupported(
        registry.Call("conv_glu", torch.device("cpu"), torch.float32)
    )
    if not torch.cuda.is_available():
        assert module.unavailable() is not None


def test_a_named_backend_never_falls_back(monkeypatch) -> None:
    """auto passes over a backend that lacks a call; the same backend by name raises."""
    module = registry.backend_module("cpp")
    monkeypatch.setattr(module, "unavailable", lambda: None)
    monkeypatch.setattr(module, "unsupported", lambda call: f"it has no {call.op} today")
    registry._decide.cache_clear()
    try:
        torch.testing.assert_close(pooled(), pooled("torch"))
        with pytest.raises(ops.BackendError, match="'cpp' cannot run gelu_pool on cpu: it has no"):
            pooled("cpp")
    finally:
        registry._decide.cache_clear()


def test_auto_takes_the_first_that_can(monkeypatch) -> None:
    module = registry.backend_module("cpp")
    monkeypatch.setattr(module, "unavailable", lambda: "not built")
    registry._decide.cache_clear()
    try:
        call = registry.Call("conv_glu", torch.device("cpu"), torch.float32)
        assert registry.resolve("auto", call) == "torch"
    finally:
        registry._decide.cache_clear()


def test_explain_backend_names_the_decision_and_every_backend() -> None:
    text = ops.explain_backend("aggregated_attention")
    assert text.startswith("aggregated_attention on cpu with float32 runs on backend")
    for name in registry.BACKEND_NAMES:
        assert f"\n  {name}" in text
    q = torch.zeros(1, 4, 2, 24, dtype=torch.float64)
    assert "with float64 runs" in ops.explain_backend("global_attention", q)
    with ops.use_backend("reference"):
        assert "runs on backend 'reference'" in ops.explain_backend("window_av", q, q)
    assert "meta" in ops.explain_backend("gelu_pool", device="meta")
    with pytest.raises(ValueError, match="op: got 'attention'"):
        ops.explain_backend("attention")


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ((3,), TypeError, "inputs: got int, needs the call's tensors"),
        ((torch.zeros(()),), ValueError, "inputs: got 0 dimensions, needs the 4"),
    ],
)
def test_explain_backend_names_bad_inputs(inputs, error, message) -> None:
    with pytest.raises(error, match=message):
        ops.explain_backend("aggregated_attention", *inputs)


@pytest.fixture
def gpu(monkeypatch) -> Iterator[Callable[[str], None]]:
    """Pretend a GPU of a compute capability, a library compiled for 7.5 to 9.0, and CuPy."""
    cpp, cupy = registry.backend_module("cpp"), registry.backend_module("cupy")
    if cpp.unavailable() is not None:
        pytest.skip("needs the compiled library")

    def pretend(capability: str) -> None:
        major, minor = map(int, capability.split("."))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, minor))
        monkeypatch.setattr(cpp._cpp, "cuda_architectures", "75-real 80-real 90-real")
        monkeypatch.setattr(cupy, "unavailable", lambda: None)
        registry._decide.cache_clear()

    yield pretend
    registry._decide.cache_clear()


@pytest.mark.parametrize(
    ("capability", "head_dim", "window", "dtype", "largest"),
    [
        ("7.5", 128, 4, torch.float16, 3),
        ("7.5", 128, 1, torch.float32, 0),
        ("7.5", 24, 7, torch.float32, 6),
        ("8.6", 24, 8, torch.float32, 7),
        ("8.6", 24, 1000, torch.float16, 8),
        ("8.0", 64, 9, torch.bfloat16, 8),
    ],
)
def test_explain_backend_says_what_shared_memory_is_too_small_for(
    gpu, capability, head_dim, window, dtype, largest
) -> None:
    gpu(capability)
    text = ops.explain_backend(device="cuda", dtype=dtype, head_dim=head_dim, window_size=window)
    assert "runs on backend 'torch'" in text.splitlines()[0]
    reason = (
        f"attention with head dim {head_dim}, window {window} and {str(dtype)[6:]} do not fit into "
        f"the shared memory of compute capability {capability}, "
        f"{f'windows up to {largest} do' if largest else 'no window does'}; use backend 'torch'"
    )
    assert sum(reason in line for line in text.splitlines()) == 2  # cpp and cupy
    if largest:
        text = ops.explain_backend(
            device="cuda", dtype=dtype, head_dim=head_dim, window_size=largest
        )
        assert "runs on backend 'cpp'" in text.splitlines()[0]
    call = registry.Call("aggregated_attention", torch.device("cuda"), dtype, head_dim, window)
    with pytest.raises(ops.BackendError, match=f"'cpp' cannot run aggregated_attention.*{reason}"):
        registry.resolve("cpp", call)


def test_explain_backend_says_the_largest_head_dim(gpu) -> None:
    gpu("9.0")
    text = ops.explain_backend("global_attention", device="cuda", head_dim=160)
    assert "runs on backend 'torch'" in text.splitlines()[0]
    assert "attention take head dims up to 128, got 160; use backend 'torch'" in text


def test_a_library_without_code_for_a_gpu_is_passed_over(gpu) -> None:
    gpu("12.0")
    text = ops.explain_backend("gelu_pool", device="cuda")
    assert "runs on backend 'cupy'" in text.splitlines()[0]
    assert (
        "compiled for 75-real 80-real 90-real, which a GPU of compute capability 12.0 does not run"
        in text
    )
    assert "cmake.define.CMAKE_CUDA_ARCHITECTURES=120" in text


@pytest.mark.parametrize(
    ("architectures", "runs", "does_not"),
    [
        ("80-real", [(8, 0), (8, 6), (8, 9)], [(7, 5), (9, 0)]),
        ("86-real 90-virtual", [(8, 6), (8, 9), (9, 0), (12, 0)], [(7, 5), (8, 0)]),
        ("75", [(7, 5), (8, 0), (12, 0)], [(7, 0)]),
        ("90a 100f-real", [(9, 0), (10, 0), (10, 3)], [(8, 0), (12, 0), (11, 0)]),
        ("110-real", [(11, 0)], [(10, 0), (12, 0)]),
        ("native", [(7, 0), (12, 1)], []),
    ],
)
def test_which_gpus_run_the_code_of_an_architecture(architectures, runs, does_not) -> None:
    runs_on = registry.backend_module("cpp")._runs_on
    assert [each for each in runs + does_not if runs_on(architectures, each)] == runs


def test_bfloat16_attention_is_passed_over_where_gpus_have_no_units_for_it(gpu) -> None:
    gpu("7.5")
    attention = {"device": "cuda", "head_dim": 24, "window_size": 3}
    text = ops.explain_backend(dtype=torch.bfloat16, **attention)
    assert "runs on backend 'torch'" in text.splitlines()[0]
    reason = "need compute capability 8.0 or newer, this GPU has 7.5, without units for it; use"
    assert sum(reason in line for line in text.splitlines()) == 2  # cpp and cupy
    for dtype in (torch.float16, torch.float32):
        text = ops.explain_backend(dtype=dtype, **attention)
        assert "runs on backend 'cpp'" in text.splitlines()[0]
    text = ops.explain_backend("conv_glu", device="cuda", dtype=torch.bfloat16)
    assert "runs on backend 'cpp'" in text.splitlines()[0]


@pytest.mark.parametrize(
    ("op", "dtype", "backend"),
    [
        ("aggregated_attention", torch.float16, "cpp"),
        ("aggregated_attention", torch.bfloat16, "cupy"),
        ("aggregated_attention", torch.float32, "cupy"),  # whose TF32 the library lacks for 7.5
        ("gelu_pool", torch.bfloat16, "cpp"),
    ],
)
def test_ptx_for_7_5_lacks_the_kernels_that_later_gpus_may_ask_for(
    gpu, monkeypatch, op, dtype, backend
) -> None:
    gpu("8.6")
    monkeypatch.setattr(registry.backend_module("cpp")._cpp, "cuda_architectures", "75")
    text = ops.explain_backend(op, device="cuda", dtype=dtype)
    assert f"runs on backend '{backend}'" in text.splitlines()[0]


def test_explain_backend_says_what_would_raise() -> None:
    ops.set_backend("torch")
    text = ops.explain_backend("conv_glu", dtype=torch.int64)
    assert "would raise: backend 'torch' cannot run conv_glu" in text


def test_environment_variable() -> None:
    code = "import transnext_ops as ops; print(ops.get_backend())"
    assert run_python(code, TRANSNEXT_OPS_BACKEND="reference").stdout.strip() == "reference"
    assert run_python(code, TRANSNEXT_OPS_BACKEND="").stdout.strip() == "auto"
    wrong = run_python(code, TRANSNEXT_OPS_BACKEND="tensorflow")
    assert wrong.returncode != 0
    assert "environment variable TRANSNEXT_OPS_BACKEND: got 'tensorflow'" in wrong.stderr


def test_import_stays_away_from_cupy_cuda_and_heavy_packages() -> None:
    code = (
        "import sys, torch, transnext_ops\n"
        "assert not torch.cuda.is_initialized()\n"
        "heavy = {'cupy', 'timm', 'lightning', 'torchvision', 'onnx', 'transnext_models',"
        " 'transnext_reference'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = run_python(code)
    assert result.stderr == ""
    assert result.stdout.strip() == "[]"


def test_the_backward_runs_on_the_forwards_backend(monkeypatch) -> None:
    module = registry.backend_module("reference")
    calls: list[str] = []
    original = module.gelu_pool_backward
    monkeypatch.setattr(
        module, "gelu_pool_backward", lambda *a: (calls.append("reference"), original(*a))[1]
    )
    x = torch.ones(1, 4, 2, requires_grad=True)
    with ops.use_backend("reference"):
        out = ops.gelu_pool(x, grid=(2, 2), pool_grid=(1, 1))
    with ops.use_backend("torch"):
        out.sum().backward()
    assert calls == ["reference"]
