"""Find processes: one of torchrun's to kill in the middle of its work; one that reads a file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

__all__ = ["finds_processes", "has_open", "restarted_by_torchrun"]

SECONDS = 500
finds_processes = pytest.mark.skipif(
    sys.platform != "linux", reason="finds the processes as Linux shows them"
)


def has_open(process: int, path: Path) -> bool:
    """Whether the process of this number has the file open."""
    for link in Path(f"/proc/{process}/fd").glob("*"):
        with contextlib.suppress(OSError):
            if link.readlink() == path:
                return True
    return False


def restarted_by_torchrun(program: Sequence[str], is_time: Callable[[], bool]) -> str:
    """Run a program on two processes, of which one is killed; return what was printed.

    torchrun ends the other then, and starts both again, with the same command.

    Parameters
    ----------
    program : Sequence[str]
        What follows Python's name on its command line.
    is_time : Callable[[], bool]
        Whether the process is to be killed now.
    """
    mark = f"TRANSNEXT_TEST_{uuid.uuid4().hex}"
    launcher = [
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("--max-restarts", "1"),
    ]
    with subprocess.Popen(
        [sys.executable, *launcher, *program],
        env={**os.environ, "OMP_NUM_THREADS": "1", mark: "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        while not is_time() and process.poll() is None:
            time.sleep(0.005)
        os.kill(_of_rank(1, mark), signal.SIGKILL)
        printed, error = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, error
    return printed


def _of_rank(rank: int, mark: str) -> int:
    """Number of the process that runs as `rank` in the launch that `mark` marks."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (folder / "environ").read_bytes().split(b"\0")
            if f"{mark}=1".encode() in environment and f"RANK={rank}".encode() in environment:
                return int(folder.name)
    raise AssertionError(f"rank {rank} has ended")
