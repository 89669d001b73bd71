"""SIGTERM and ctrl-C end a run between two steps, with a checkpoint and a word on how to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from training import short_runs
from training.short_runs import assert_same_end, finish, started
from training.test_training_run import transnext_train
from transnext_models.training.interruption import StopSignals
from transnext_models.training.run import train


def _arguments(run: Path, images: Path, *more: str) -> list[str]:
    return [
        *("--recipe", "imagenet_224", "--model", "transnext_pico", "--num-classes", "3"),
        *("--data", str(images), "--img-size", "32", "--pretrain-size", "32"),
        *("--batch-size", "4", "--devices", "1", "--epochs", "6"),
        *("--output", str(run), "--no-report", *more),
    ]


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGTERM, "2"),
        pytest.param(signal.SIGINT, "0", marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, "0", marks=pytest.mark.long),
        pytest.param(signal.SIGINT, "2", marks=pytest.mark.long),
    ],
)
def test_a_signal_to_the_whole_job(
    tmp_path: Path, images: Path, number: signal.Signals, workers: str
) -> None:
    """As ctrl-C and SLURM send it: to the loading processes too. Then to one process that has just
    begun again; the third one ends as a run that was not stopped."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    result = transnext_train(*_arguments(whole, images, "--workers", "0"))
    assert result.exit_code == 0, result.output
    with started(*_arguments(run, images, "--workers", workers)) as process:
        _wait_for(run / "checkpoints" / "last.ckpt", process)
        os.killpg(process.pid, number)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + number, error
    assert f"stopped by {number.name} after step" in error
    assert f"continue with --resume {run}" in error.replace("\n", "")
    assert "Traceback" not in error
    with started("--resume", str(run)) as process:
        _wait_for(run / "run.lock", process)
        while "process" not in (run / "run.lock").read_text() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        _, error = process.communicate(timeout=120)
    assert process.returncode in (128 + number, -number), error
    finish("--resume", str(run))
    assert_same_end(whole, run)


def test_a_second_signal_ends_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    code = (
        "import signal; from transnext_models.training.interruption import StopSignals\n"
        "with StopSignals():\n"
        "    signal.raise_signal(signal.SIGTERM); print('noted', flush=True)\n"
        "    signal.raise_signal(signal.SIGTERM); print('not at once')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM
    assert done.stdout == "noted\n"
    assert "once more ends at once" in done.stderr


def test_a_run_in_another_thread_leaves_signals_alone(tmp_path: Path, images: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=train, args=[short_runs.images(tmp_path, images)])
    thread.start()
    thread.join()
    assert (tmp_path / "result.json").exists()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
