"""The choice of the instruction set."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from transnext_ops import window_qk

_cpp = pytest.importorskip("transnext_ops._cpp")


def level_with(value: str | None) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "TRANSNEXT_CPU_LEVEL"}
    if value is not None:
        environment["TRANSNEXT_CPU_LEVEL"] = value
    code = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("_cpp", {_cpp.__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.cpu_level())
"""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )


def test_the_default_is_the_last_level_this_processor_can_run() -> None:
    assert _cpp.available_cpu_levels()[0] == "baseline"
    assert level_with(None).stdout.strip() == _cpp.available_cpu_levels()[-1]


@pytest.mark.parametrize("level", _cpp.available_cpu_levels())
def test_the_environment_forces_a_level(level: str) -> None:
    assert level_with(level).stdout.strip() == level


def test_an_unknown_level_is_an_error_that_lists_the_known_ones() -> None:
    result = level_with("sse9")
    assert result.returncode != 0
    assert (
        "environment variable TRANSNEXT_CPU_LEVEL: CPU level 'sse9' is not available"
        in result.stderr
    )
    assert "this build and processor have baseline" in result.stderr
    with pytest.raises(RuntimeError, match="'sse9' is not available"):
        _cpp.set_cpu_level("sse9")
    assert _cpp.cpu_level() in _cpp.available_cpu_levels()


@pytest.mark.parametrize(
    ("level", "below", "dtype"),
    [
        ("avx512", "avx2", torch.float64),
        ("avx512_bf16", "avx2", torch.float64),
        ("avx512_bf16", "avx512", torch.float32),
        ("avx512_bf16", "avx512", torch.bfloat16),
        ("avx512_bf16", "avx512", torch.float16),
    ],
)
def test_a_level_without_a_kernel_for_a_type_runs_that_of_the_level_below(
    level: str, below: str, dtype: torch.dtype
) -> None:
    """The types that a level leaves out are in ``cpp/cpu/runtime/level_types.h``."""
    if level not in _cpp.available_cpu_levels():
        pytest.skip(f"this processor has no {level}")
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 3, 35, 24, generator=generator).to(dtype) for _ in range(2))
    results = []
    try:
        for name in (level, below):
            _cpp.set_cpu_level(name)
            results.append(window_qk(q, k, None, grid=(5, 7), window_size=3, backend="cpp"))
    finally:
        _cpp.set_cpu_level(None)
    assert torch.equal(*results)
