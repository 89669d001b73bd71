"""Programs of their own whose memory is measured, for tests of stated bounds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

_needs_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="peak memory is read from and reset in /proc"
)

_PROGRAM = """
import sys

def _mib(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key)) / 1024

{setup}
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")
before = _mib("VmRSS")
try:
{work}
finally:
    print("\\npeak", _mib("VmHWM") - before)
"""


def measures_memory(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test of what a program of its own takes: slow, and for Linux."""
    return pytest.mark.slow(_needs_linux(test))


class Measured(NamedTuple):
    """What a program printed, and how much memory its work took at most."""

    out: str
    mib: float


def measured(setup: str, work: str, *arguments: object, seconds: float = 120) -> Measured:
    """Run `setup`, then `work`, in a new Python; measure the growth of resident memory by `work`.

    Both are source text that finds `arguments` in ``sys.argv[1:]``. An error or a timeout of the
    program is an error here.
    """
    indented = "\n".join(f"    {line}" for line in work.strip().splitlines())
    program = _PROGRAM.format(setup=setup, work=indented)
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    out, _, peak = done.stdout.rpartition("peak")
    return Measured(out.strip(), float(peak))
