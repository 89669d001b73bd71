"""Two processes on a CPU: one run, the same numbers, stopped and continued together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.short_runs import (
    assert_same_end,
    finish,
    free_port,
    metrics,
    on_odd_images,
    started,
)
from training.test_training_run import transnext_train
from transnext_models.checkpoints import read_state_dict

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("--shard-optimizer", "--shard-optimizer"),
        pytest.param("--no-shard-optimizer", "--no-shard-optimizer", marks=pytest.mark.long),
        pytest.param("--shard-optimizer", "--no-shard-optimizer", marks=pytest.mark.long),
        pytest.param("--no-shard-optimizer", "--shard-optimizer", marks=pytest.mark.long),
    ],
)
def test_stopped_in_the_middle_of_an_epoch(
    tmp_path: Path, odd_images: Path, whole_of_two: Path, first: str, then: str
) -> None:
    """The signal reaches one process; all of them stop at one step. A sharded optimizer takes the
    same steps as that of `whole_of_two`, which is not, and leaves the same checkpoints."""
    run = tmp_path / "run"
    arguments = on_odd_images(odd_images, run, 2, 2, "--checkpoint-every-steps", "1", first)
    with started(*arguments) as process:
        while not (run / "checkpoints" / "last.ckpt").exists() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=500)
    assert process.returncode == 143, error
    assert "continue with --resume" in error
    finish("--resume", str(run), then)
    assert_same_end(whole_of_two, run)


@pytest.mark.long
def test_killed_in_the_middle_of_an_epoch(
    tmp_path: Path, odd_images: Path, whole_of_two: Path
) -> None:
    """Only the first process is killed; the other gives up by itself, and the lock is free."""
    run = tmp_path / "run"
    arguments = on_odd_images(odd_images, run, 2, 2, "--checkpoint-every-steps", "1")
    with started(*arguments) as process:
        while not (run / "checkpoints" / "previous.ckpt").exists() and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        process.wait()
        finish("--resume", str(run))
    assert_same_end(whole_of_two, run)


def test_every_validation_image_counts_once(
    tmp_path: Path, whole_of_two: Path, odd_images: Path
) -> None:
    """41 images on one process, this one, and on three."""
    weights = str(whole_of_two / "last.safetensors")
    rows = []
    for devices in (1, 3):
        run = tmp_path / str(devices)
        # A rate at which float32 weights do not move: the same weights are validated.
        more = ("--weights", weights, "--lr", "1e-30", "--epochs", "1")
        arguments = on_odd_images(odd_images, run, devices, 12 // devices, *more)
        if devices == 1:
            result = transnext_train(*arguments)
            assert result.exit_code == 0, result.output
        else:
            finish(*arguments)
        rows.append(metrics(run)[-1])
        before, after = (
            read_state_dict(path)
            for path in (whole_of_two / "last.safetensors", run / "last.safetensors")
        )
        assert all((before[name] - after[name]).abs().max() < 1e-12 for name in before)
    for row in rows:
        assert float(row["val_top1"]) * 41 == pytest.approx(
            round(float(row["val_top1"]) * 41), abs=1e-9
        )
        assert row["val_top1"] == rows[0]["val_top1"]
        assert float(row["val_loss"]) == pytest.approx(float(rows[0]["val_loss"]), rel=1e-6)


_LOST = """
import os, sys
from pathlib import Path
from transnext_models.training.module import ClassifierModule
from transnext_models.training.run import RunOptions, train

step, seen = ClassifierModule.training_step, []

def lost(module, batch):
    seen.append(batch)
    is_lost = os.environ.get("LOCAL_RANK", "0") == "1" and len(seen) == 3
    return step(module, batch) * (float("nan") if is_lost else 1.0)

ClassifierModule.training_step = lost
train(RunOptions(
    recipe="imagenet_224", model="transnext_pico", data=sys.argv[1], output=Path(sys.argv[2]),
    num_classes=2, img_size=32, epochs=3, batch_size=2, workers=0, devices="2", report=False,
))
"""


def test_a_loss_that_one_process_loses_stops_all(tmp_path: Path, odd_images: Path) -> None:
    script = tmp_path / "lost.py"
    script.write_text(_LOST)
    done = subprocess.run(
        [sys.executable, str(script), str(odd_images), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode != 0
    # Both say so, the one whose loss it is not included.
    assert done.stderr.count("RuntimeError: the loss of epoch 0, step 3 (learning rate 1e-06)") == 2


def test_torchrun_with_as_many_processes(
    tmp_path: Path, odd_images: Path, whole_of_two: Path
) -> None:
    run = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--master-port", str(free_port())]
    command = ["-m", "transnext_models.cli.train", *on_odd_images(odd_images, run, 2, 2)]

    def launch(count: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*launcher, "--nproc-per-node", str(count), *command],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=500,
        )

    refused = launch(1)
    assert refused.returncode != 0
    assert "torchrun has started 1 process" in refused.stderr
    assert not run.exists()
    done = launch(2)
    assert done.returncode == 0, done.stderr
    assert_same_end(whole_of_two, run)
