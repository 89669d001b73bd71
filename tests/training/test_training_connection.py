"""A process that does not come is named soon, rather than waited for half an hour."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from training.short_runs import command, free_port
from transnext_models.training.connection import MeetingPoint, ProcessesMissing, join, meet
from transnext_models.training.options import RunOptions, check_options

TORCHRUN = {"TORCHELASTIC_RESTART_COUNT": "2", "TORCHELASTIC_USE_AGENT_STORE": "True"}


@pytest.fixture
def port() -> int:
    return free_port()


def test_where_a_launcher_says() -> None:
    named = {"MASTER_ADDR": "node0", "MASTER_PORT": "29500", "RANK": "3", "WORLD_SIZE": "8"}
    assert MeetingPoint.of(named) == MeetingPoint("node0", 29500, 3, 8)
    assert MeetingPoint.of({**named, **TORCHRUN}) == MeetingPoint("node0", 29500, 3, 8, 2, True)


def _meet(ranks: int, coming: list[int], patience: float, **options: Any) -> dict[int, Any]:
    """Let some of so many processes, threads here, meet; what became of each."""
    store = torch.distributed.HashStore()
    found: dict[int, Any] = {}

    def come(rank: int) -> None:
        point = MeetingPoint("node0", 29500, rank, ranks)
        try:
            found[rank] = meet(store, point, time.monotonic() + patience, patience, **options)
        except ProcessesMissing as error:
            found[rank] = str(error)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in coming]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_all_meet() -> None:
    found = _meet(3, [0, 1, 2], 60)
    assert all(isinstance(store, torch.distributed.PrefixStore) for store in found.values())


def test_those_who_have_not_come_are_named() -> None:
    expected = (
        "--connect-timeout: got 3 of 5 processes at node0:29500 within 0.2 s, needs process 1, "
        "process 4: see what the others have said, or wait longer"
    )
    assert _meet(5, [0, 2, 3], 0.2) == {0: expected, 2: expected, 3: expected}
    many = _meet(300, [0], 0.2)[0]
    assert "got 1 of 300 processes" in many
    assert many.count("process ") == 8
    assert "process 8, …" in many


def test_one_that_is_known_to_have_ended_is_not_waited_for() -> None:
    began = time.monotonic()
    found = _meet(2, [0], 60, ended=lambda: "process 1 of this machine has ended with status -9")
    assert found[0].startswith("node0:29500: process 1 of this machine has ended with status -9")
    assert time.monotonic() - began < 30


def test_a_restart_does_not_find_what_an_earlier_attempt_has_left() -> None:
    store = torch.distributed.HashStore()
    for rank in (0, 1):
        torch.distributed.PrefixStore("attempt 0", store).set(f"process {rank}", "here")
    again = MeetingPoint("node0", 29500, 0, 2, attempt=1)
    with pytest.raises(ProcessesMissing, match="got 1 of 2 processes"):
        meet(store, again, time.monotonic() + 0.2, 0.2)


def test_the_first_process_does_not_answer(port: int) -> None:
    with pytest.raises(
        ProcessesMissing, match=r"got 1 of 2 processes.* needs an answer of the first process"
    ):
        join("gloo", MeetingPoint("127.0.0.1", port, 1, 2), 1)
    with pytest.raises(ProcessesMissing, match="needs an answer of the launcher"):
        join("gloo", MeetingPoint("127.0.0.1", port, 0, 2, is_served=True), 1)


def test_a_port_that_is_taken(port: int) -> None:
    with (
        socket.create_server(("", port)),
        pytest.raises(ProcessesMissing, match=rf"127.0.0.1:{port}: the first process cannot lis"),
    ):
        join("gloo", MeetingPoint("127.0.0.1", port, 0, 2), 1)


def test_the_option_is_a_number_of_seconds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--connect-timeout: got 0, needs a positive number"):
        check_options(RunOptions(recipe="digits", output=tmp_path, connect_timeout=0))


# -- of a run -------------------------------------------------------------------------------------


def _run(images: Path, run: Path, *more: str, **environment: str) -> subprocess.Popen[str]:
    arguments = [
        *("--recipe", "imagenet_224", "--model", "transnext_pico", "--num-classes", "3"),
        *("--data", str(images), "--img-size", "32", "--workers", "0", "--epochs", "1"),
        *("--batch-size", "2", "--devices", "2", "--no-report", "--output", str(run), *more),
    ]
    return subprocess.Popen(
        command(*arguments),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "needs"),
    [
        ("0", "needs process 1:"),
        pytest.param("1", "needs an answer of the first process:", marks=pytest.mark.long),
    ],
)
def test_a_run_of_which_one_process_never_starts(
    tmp_path: Path, images: Path, port: int, rank: str, needs: str
) -> None:
    """As the others see it that was killed while it read its data."""
    process = _run(
        *(images, tmp_path / "run", "--connect-timeout", "2"),
        RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    _, error = process.communicate(timeout=200)
    assert process.returncode == 1
    said = error.splitlines()[-1]
    assert (
        f"--connect-timeout: got 1 of 2 processes at 127.0.0.1:{port} within 2 s, {needs}" in said
    )
    assert "Traceback" not in error


_KILLED = """
import os, signal
import typer
from transnext_models.training import strategy
from transnext_models.cli.train import register

if os.environ.get("LOCAL_RANK") == "1":
    strategy.join = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
app = typer.Typer()
register(app)
app()
"""


@pytest.mark.slow
def test_a_process_that_this_one_has_started_is_killed(tmp_path: Path, images: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(_KILLED)
    arguments = [
        *("--recipe", "imagenet_224", "--model", "transnext_pico", "--num-classes", "3"),
        *("--data", str(images), "--img-size", "32", "--workers", "0", "--epochs", "1"),
        *("--batch-size", "2", "--devices", "2", "--output", str(tmp_path / "run")),
    ]
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode in (1, -signal.SIGKILL)  # Lightning kills a run that lost a process
    assert "process 1 of this machine has ended with status -9" in done.stderr
