"""The CUDA kernels compile with nvcc and NVRTC without a warning, those of head dim 24 keep to
their limits, and ``python -m tools.kernel_report`` says so.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

pytest.importorskip("transnext_ops._cpp")

from ptx_emulator import emulator, kept
from tools.kernel_report import __main__ as command
from tools.kernel_report import compilers, limits, plans
from tools.kernel_report.compilers import ARCHITECTURES, CompiledKernel
from tools.kernel_report.occupancy import MULTIPROCESSORS, occupancy
from transnext_ops.backends import kernel_sources

SIZES = ("224", "800x1280")
LISTS = kernel_sources.kernel_names()
# One of each generation that has limits: all kernels for all architectures take a quarter of an
# hour, which `python -m tools.kernel_report --check` is for.
CHECKED = [("nvcc", 80), *(pytest.param("nvrtc", at, marks=pytest.mark.long) for at in (90, 120))]


def compiler_or_skip(compiler: str) -> str:
    if (reason := compilers.unavailable(compiler)) is not None:
        pytest.skip(f"{compiler}: {reason}")
    return compiler


def compiled(compiler: str, name: str, architecture: int) -> list[CompiledKernel]:
    """Compile the limited kernels of a list, or return what an earlier run made of the source."""
    kernels = [kernel for kernel in LISTS[name] if limits.is_limited(kernel)]

    def make() -> str:
        made = compilers.compile_kernels(compiler, kernels, architecture).kernels
        return json.dumps([asdict(kernel) for kernel in made])

    text = kept(f"resources {compiler} {architecture} {kernels}", make)
    return [CompiledKernel(**kernel) for kernel in json.loads(text)]


@pytest.mark.slow
@pytest.mark.parametrize(("compiler", "architecture"), CHECKED)
@pytest.mark.parametrize("name", LISTS)
def test_kernels_compile_and_keep_to_their_limits(name, compiler, architecture) -> None:
    blocks = plans.blocks(SIZES, architecture)
    problems = []
    for kernel in compiled(compiler_or_skip(compiler), name, architecture):
        planned = plans.worst(kernel, blocks.get(kernel.kernel, ()))
        problems += limits.problems(kernel, planned and planned[1])
    assert not problems, "\n".join(problems)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("architecture", [80, 120])
def test_16_bit_attention_uses_tensor_cores(architecture) -> None:
    kernels = compiled(compiler_or_skip("nvrtc"), "aggregated_attention", architecture)
    for kernel in kernels:
        has_products = kernel.tensor_core_instructions > 0
        assert has_products == ("<float" not in kernel.kernel), kernel


@pytest.mark.parametrize("compiler", ["nvcc", "nvrtc"])
def test_both_compilers_report(compiler) -> None:
    kernels = LISTS["gelu_pool"]
    made = compilers.compile_kernels(compiler_or_skip(compiler), kernels, 80)
    assert [kernel.kernel for kernel in made.kernels] == list(kernels)
    for kernel in made.kernels:
        assert kernel.entry in made.ptx
        assert 16 <= kernel.registers <= 255
        assert kernel.tensor_core_instructions == 0


@pytest.mark.parametrize("compiler", ["nvcc", "nvrtc"])
def test_what_a_compiler_refuses_is_said(compiler) -> None:
    with pytest.raises(compilers.CompilationError, match=r"sm_80.*Quarter"):
        compilers.compile_kernels(compiler_or_skip(compiler), ["gelu_pool_forward<Quarter>"], 80)


def test_occupancy() -> None:
    # Bound by warps, by registers, by shared memory, by blocks; and a block that does not fit.
    assert occupancy(80, registers=32, threads=256, shared_bytes=0) == 1.0
    assert occupancy(80, registers=80, threads=256, shared_bytes=0) == 24 / 64
    assert occupancy(80, registers=32, threads=128, shared_bytes=53 * 1024) == 3 * 4 / 64
    assert occupancy(86, registers=16, threads=32, shared_bytes=0) == 16 / 48
    assert occupancy(75, registers=16, threads=32, shared_bytes=65 * 1024) == 0.0
    assert set(MULTIPROCESSORS) == set(ARCHITECTURES)


FINE = CompiledKernel(
    "attention_backward<Half, 24, true>", 90, "entry", registers=96, shared_bytes=0, stack_bytes=0,
    spill_stores=0, spill_loads=0, tensor_core_instructions=8,
)  # fmt: skip


def test_limits() -> None:
    assert limits.problems(FINE, 0.25) == []
    assert limits.problems(FINE, None) == []
    assert "occupancy 12%, needs 25%" in limits.problems(FINE, 0.125)[0]
    forward = replace(FINE, kernel="attention_forward<Half, 24, 3>")
    assert "occupancy 25%, needs 33%" in limits.problems(forward, 0.25)[0]
    any_window = replace(FINE, kernel="attention_forward<Half, 24, -1, SmallTile>")
    assert limits.problems(any_window, 0.125) == []
    assert limits.problems(replace(FINE, kernel="conv_glu_forward<Half>"), 0.1) == []
    spills = replace(FINE, spill_stores=8, spill_loads=4, stack_bytes=8)
    assert "spills 8 bytes" in limits.problems(spills, 0.5)[0]
    assert "16 bytes of local memory" in limits.problems(replace(FINE, stack_bytes=16), 0.5)[0]
    # What may be slow: other head dims, and GPUs before tensor cores of both 16-bit types.
    assert limits.problems(replace(spills, kernel="attention_backward<Half, 64>"), 0.1) == []
    assert limits.problems(replace(spills, architecture=75), 0.1) == []
    # Kernels without a head dim must not spill either.
    assert limits.problems(replace(spills, kernel="conv_glu_forward<Half>"), 0.1) != []


@pytest.mark.slow
def test_the_command_prints_kernels_and_launches(capsys) -> None:
    if compilers.unavailable("nvcc") and compilers.unavailable("nvrtc"):
        pytest.skip("no CUDA compiler")
    emulator()
    assert command.main(["gelu_pool_forward", "--architectures", "80", "--check"]) == 0
    kernels, launches = capsys.readouterr().out.split("\n\n")
    rows = [row.split(" | ") for row in kernels.splitlines()[2:]]
    assert [row[0] for row in rows] == [f"| `{kernel}`" for kernel in LISTS["gelu_pool"][:3]]
    assert all(float(row[7].rstrip("%")) >= 33 for row in rows)
    rows = [row.strip("| ").split(" | ") for row in launches.splitlines()[2:]]
    assert [row[0] for row in rows] == [
        f"gelu_pool 224 {dtype}" for dtype in ("float32", "float16", "bfloat16")
    ]
    for row in rows:
        assert float(row[7]) <= 1.1  # distinct sectors over the least


def test_the_command_says_what_is_missing(monkeypatch, capsys) -> None:
    monkeypatch.setattr(compilers, "unavailable", lambda compiler: f"no {compiler} here")
    assert command.main(["--compiler", "nvcc"]) == 2
    assert "nvcc cannot compile: no nvcc here" in capsys.readouterr().err
