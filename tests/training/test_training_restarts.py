"""Launchers that start a run again, and processes that reach each other over a network only."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from killed_ranks import finds_processes, restarted_by_torchrun
from training import short_runs
from training.short_runs import StopAfter, assert_same_end, on_odd_images
from transnext_models.training.run import RunStopped, train

PROGRAM = ["-m", "transnext_models.cli.train"]
SECONDS = 500


def _arguments(images: Path, run: Path, nodes: int = 1) -> list[str]:
    return on_odd_images(
        *(images, run, 2 // nodes, 2, "--num-nodes", str(nodes)),
        *("--checkpoint-every-steps", "1", "--auto-resume"),
        workers=0,
    )


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def test_the_same_options_start_and_continue(tmp_path: Path, images: Path) -> None:
    whole = short_runs.images(tmp_path / "whole", images)
    train(whole)
    options = short_runs.images(tmp_path / "run", images, auto_resume=True)
    with pytest.raises(RunStopped):
        train(options, [StopAfter(3)])
    train(options)
    assert_same_end(whole.output, options.output)
    before = {path: path.read_bytes() for path in options.output.iterdir() if path.is_file()}
    train(options)  # a run that is over stays as it is
    assert before == {
        path: path.read_bytes() for path in options.output.iterdir() if path.is_file()
    }


@pytest.mark.slow
@finds_processes
def test_torchrun_starts_a_run_again_that_lost_a_process(
    tmp_path: Path, odd_images: Path, whole_of_two: Path
) -> None:
    run = tmp_path / "run"
    kept = run / "checkpoints" / "previous.ckpt"
    restarted_by_torchrun([*PROGRAM, *_arguments(odd_images, run)], kept.exists)
    assert_same_end(whole_of_two, run)


# -- two machines ---------------------------------------------------------------------------------


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def two_machines() -> Iterator[list[str]]:
    """Names of two network namespaces, 10.213.0.1 and .2, joined by a cable."""
    if shutil.which("ip") is None:
        pytest.skip("needs iproute2")
    tail = uuid.uuid4().hex[:6]
    names, ends = [f"machine{i}{tail}" for i in (0, 1)], [f"cable{i}{tail}" for i in (0, 1)]
    try:
        for name in names:
            try:
                _ip("netns", "add", name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"needs network namespaces: {error.stderr.decode().strip()}")
        _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for i, (name, end) in enumerate(zip(names, ends, strict=True)):
            _ip("link", "set", end, "netns", name)
            _ip("-n", name, "addr", "add", f"10.213.0.{i + 1}/24", "dev", end)
            _ip("-n", name, "link", "set", end, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _launched(machine: str, end: str, node: int, arguments: list[str]) -> subprocess.Popen[str]:
    launcher = [
        *("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
        *("--node-rank", str(node), "--master-addr", "10.213.0.1", "--master-port", "29471"),
    ]
    return subprocess.Popen(
        ["ip", "netns", "exec", machine, sys.executable, *launcher, *PROGRAM, *arguments],
        env=_environment(GLOO_SOCKET_IFNAME=end, TP_SOCKET_IFNAME=end),
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.slow
def test_two_machines_of_which_one_is_lost(
    tmp_path: Path, odd_images: Path, whole_of_two: Path, two_machines: list[str]
) -> None:
    """A machine disappears in the middle; both are started again and end as one machine would."""
    run = tmp_path / "run"
    ends = [name.replace("machine", "cable") for name in two_machines]

    def start() -> list[subprocess.Popen[str]]:
        arguments = _arguments(odd_images, run, nodes=2)
        return [
            _launched(machine, end, node, arguments)
            for node, (machine, end) in enumerate(zip(two_machines, ends, strict=True))
        ]

    first = start()
    try:
        while not (run / "checkpoints" / "previous.ckpt").exists() and first[0].poll() is None:
            time.sleep(0.005)
    finally:
        # All of the second machine at once; the first one's process notices by itself, or is ended
        # as its scheduler would end it.
        for process in reversed(first):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    second = start()
    for process in second:
        _, error = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, error
    assert_same_end(whole_of_two, run)
