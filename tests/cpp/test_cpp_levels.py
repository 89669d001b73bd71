"""The choice of the instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from transnext_ops import explain_backend, window_qk
from transnext_ops.backends import cpp_backend

_cpp = pytest.importorskip("transnext_ops._cpp")


def level_with(value: str | None, before: str = "") -> subprocess.CompletedProcess:
    """Print the level and those passed over, in a process that has run the code `before`."""
    environment = {k: v for k, v in os.environ.items() if k != "TRANSNEXT_CPU_LEVEL"}
    if value is not None:
        environment["TRANSNEXT_CPU_LEVEL"] = value
    code = f"""
{before}
import importlib.util
spec = importlib.util.spec_from_file_location("_cpp", {_cpp.__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.cpu_level())
print(*module.passed_over_cpu_levels(), sep="\\n")
"""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )


REFUSAL = "amx_bf16: Linux refuses the tile registers (arch_prctl: Operation not permitted)"
REFUSED = """
# A filter that lets arch_prctl(ARCH_REQ_XCOMP_PERM) fail with EPERM, as a container's may.
import ctypes, struct
load, jump_equal, give = 0x20, 0x15, 0x06
rules = [(load, 0, 0, 0), (jump_equal, 0, 3, 158), (load, 0, 0, 16), (jump_equal, 0, 1, 0x1023),
         (give, 0, 0, 0x00050001), (give, 0, 0, 0x7fff0000)]
code = b"".join(struct.pack("HBBI", *rule) for rule in rules)
buffer = ctypes.create_string_buffer(code)
program = struct.pack("HxxxxxxP", len(rules), ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP
"""


def test_the_default_is_the_last_level_that_nothing_is_against() -> None:
    available = _cpp.available_cpu_levels()
    assert available[0] == "baseline"
    passed_over = dict(line.split(": ", 1) for line in _cpp.passed_over_cpu_levels())
    level, *reasons = level_with(None).stdout.split("\n")
    candidates = [name for name in available if name not in (*passed_over, "amx_emulated")]
    assert level == candidates[-1]
    assert [reason for reason in reasons if reason] == _cpp.passed_over_cpu_levels()
    assert all(passed_over.values())


def test_dot_products_are_passed_over_where_they_are_slow() -> None:
    """On AMD's processors they are twice as fast as float32, on Intel's with AMX half as fast."""
    if "avx512_bf16" not in _cpp.available_cpu_levels():
        pytest.skip("this processor has no avx512_bf16")
    level, *reasons = level_with(None, before=REFUSED).stdout.split("\n")
    vendor = next(
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("vendor_id")
    )
    if vendor == "AuthenticAMD":
        assert level == "avx512_bf16"
    if "amx_bf16" in _cpp.available_cpu_levels():
        assert level == "avx512"
        assert any(line.startswith("avx512_bf16: its dot products") for line in reasons)


def test_tiles_that_linux_refuses_are_passed_over() -> None:
    if "amx_bf16" not in _cpp.available_cpu_levels():
        pytest.skip("this processor has no amx_bf16")
    level, *reasons = level_with(None, before=REFUSED).stdout.split("\n")
    assert level == "avx512"
    assert REFUSAL in reasons
    forced = level_with("amx_bf16", before=REFUSED)
    assert "CPU level 'amx_bf16' is not available" in forced.stderr


def test_explain_backend_says_the_level_and_what_is_passed_over(monkeypatch) -> None:
    assert f"of auto on cpu; {_cpp.cpu_level()}" in explain_backend()
    monkeypatch.setattr(cpp_backend._cpp, "passed_over_cpu_levels", lambda: [REFUSAL])
    assert f"; {_cpp.cpu_level()}; not {REFUSAL}\n" in explain_backend()


@pytest.mark.parametrize("level", _cpp.available_cpu_levels())
def test_the_environment_forces_a_level(level: str) -> None:
    assert level_with(level).stdout.split("\n")[0] == level


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
        ("amx_bf16", "avx512", torch.float32),
        ("amx_emulated", "avx2", torch.bfloat16),
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
