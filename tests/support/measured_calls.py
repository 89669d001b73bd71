"""Measure calls in processes of their own: how long they took, and how much memory.

For promises such as "reading a file takes at most 64 MB and 4 times its size": each call runs in a
fork of one interpreter that has made its imports, so that nothing of the calls before it counts,
and is killed when it takes far more than it may. Needs ``/proc``, so Linux.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

MB = 1_000_000
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is measured by Linux's /proc"
)
_POLL = 0.005


@dataclass(frozen=True)
class Outcome:
    """What a call did.

    Attributes
    ----------
    value
        What it returned, as text.
    error
        The type of exception that it raised, or why it was killed; "" if it returned.
    message
        The exception's message.
    seconds, memory
        How long it took, and how many bytes more than before it the process had at most.
    """

    value: str
    error: str
    message: str
    seconds: float
    memory: int


def measured(
    setup: str, calls: Sequence[str], *, seconds: float = 60, memory: int = 1000 * MB
) -> list[Outcome]:
    """Run each of `calls`, Python expressions, after the statements `setup`, in its own process.

    A call that goes on for more than `seconds`, or takes more than `memory` bytes, is killed.
    """
    request = json.dumps(
        {"setup": setup, "calls": list(calls), "seconds": seconds, "memory": memory}
    )
    done = subprocess.run(
        [sys.executable, __file__], input=request, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [Outcome(**json.loads(line)) for line in done.stdout.splitlines()]


# -- in the interpreter that forks ----------------------------------------------------------------


def _serve() -> None:
    request = json.load(sys.stdin)
    results = os.dup(1)
    os.dup2(2, 1)  # whatever is printed is no result
    names: dict[str, Any] = {}
    exec(request["setup"], names)
    for call in request["calls"]:
        outcome = _fork(call, names, request["seconds"], request["memory"])
        os.write(results, (json.dumps(asdict(outcome)) + "\n").encode())


def _fork(call: str, names: dict[str, Any], seconds: float, memory: int) -> Outcome:
    reading, writing = os.pipe()
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.close(reading)
        outcome = _run(call, names, memory)
        with os.fdopen(writing, "w") as pipe:
            json.dump(asdict(outcome), pipe)
        os._exit(0)
    os.close(writing)
    before = _memory(child, "VmRSS")
    killed = ""
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.perf_counter() - started > seconds:
            killed = f"killed after {seconds} s"
        elif _memory(child, "VmRSS") - before > memory:
            killed = f"killed with more than {memory / MB:.0f} MB"
        if killed:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(_POLL)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    if text and not killed:
        return Outcome(**json.loads(text))
    return Outcome("", killed or "died", "", time.perf_counter() - started, memory)


def _run(call: str, names: dict[str, Any], memory: int) -> Outcome:
    # Against what would take a machine down between two looks at it.
    most = _memory(os.getpid(), "VmSize") + 8 * memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the present, from here on
    before, started = _memory(os.getpid(), "VmRSS"), time.perf_counter()
    value = error = message = ""
    try:
        value = str(eval(call, names))
    except BaseException as raised:
        error, message = type(raised).__name__, str(raised)
        if not isinstance(raised, ValueError):
            traceback.print_exc()
    taken = time.perf_counter() - started
    return Outcome(value, error, message, taken, _memory(os.getpid(), "VmHWM") - before)


def _memory(process: int, name: str) -> int:
    """Return a number of bytes that Linux keeps about a process; 0 once it has ended."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    return 0


if __name__ == "__main__":
    _serve()
