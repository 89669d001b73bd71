"""Two processes on a CPU: one run, the same numbers, stopped and continued together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.short_runs import assert_same_end, free_port, metrics, started
from transnext_models.checkpoints import read_state_dict

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 images to train on and 131 to validate on, which no two processes share evenly."""
    folder = tmp_path_factory.mktemp("odd")
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 131)):
        for index in range(count):
            place = folder / split / ("ant", "bee")[index % 2]
            place.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{index}.png")
    return folder


def _arguments(images: Path, run: Path, devices: int, batch: int, *more: str) -> list[str]:
    return [
        *("--recipe", "imagenet_224", "--model", "transnext_pico", "--num-classes", "2"),
        *("--data", str(images), "--img-size", "32", "--workers", "1"),
        *("--epochs", "3", "--batch-size", str(batch), "--devices", str(devices)),
        *("--output", str(run), "--no-report", *more),
    ]


def _finish(*arguments: str) -> str:
    with started(*arguments) as process:
        _, error = process.communicate(timeout=500)
    assert process.returncode == 0, error
    return error


def _stopped(*arguments: str, run: Path) -> str:
    """Stop a run after its first checkpoint by a signal; what it says."""
    with started(*arguments) as process:
        while not (run / "checkpoints" / "last.ckpt").exists() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=500)
    assert process.returncode == 143, error
    return error


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    _finish(*_arguments(images, run, 2, 2))
    return run


def test_stopped_in_the_middle_of_an_epoch(tmp_path: Path, images: Path, whole: Path) -> None:
    """The signal reaches one process; all of them stop at one step."""
    run = tmp_path / "run"
    error = _stopped(*_arguments(images, run, 2, 2, "--checkpoint-every-steps", "1"), run=run)
    assert "continue with --resume" in error
    _finish("--resume", str(run))
    assert_same_end(whole, run)


@pytest.mark.long
def test_killed_in_the_middle_of_an_epoch(tmp_path: Path, images: Path, whole: Path) -> None:
    """Only the first process is killed; the other gives up by itself, and the lock is free."""
    run = tmp_path / "run"
    arguments = _arguments(images, run, 2, 2, "--checkpoint-every-steps", "1")
    with started(*arguments) as process:
        while not (run / "checkpoints" / "previous.ckpt").exists() and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        process.wait()
        _finish("--resume", str(run))
    assert_same_end(whole, run)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("--shard-optimizer", "--shard-optimizer"),
        pytest.param("--shard-optimizer", "--no-shard-optimizer", marks=pytest.mark.long),
        pytest.param("--no-shard-optimizer", "--shard-optimizer", marks=pytest.mark.long),
    ],
)
def test_a_sharded_optimizer_takes_the_same_steps(
    tmp_path: Path, images: Path, whole: Path, first: str, then: str
) -> None:
    """And its checkpoints are those of one that is not."""
    run = tmp_path / "run"
    _stopped(*_arguments(images, run, 2, 2, "--checkpoint-every-steps", "1", first), run=run)
    _finish("--resume", str(run), then)
    assert_same_end(whole, run)


def test_every_validation_image_counts_once(tmp_path: Path, whole: Path, images: Path) -> None:
    """131 images on one process and on three."""
    weights = str(whole / "last.safetensors")
    rows = []
    for devices in (1, 3):
        run = tmp_path / str(devices)
        # A rate at which float32 weights do not move: the same weights are validated.
        _finish(
            *_arguments(images, run, devices, 12 // devices, "--weights", weights, "--lr", "1e-30"),
            *("--epochs", "1"),
        )
        rows.append(metrics(run)[-1])
        before, after = (
            read_state_dict(path) for path in (whole / "last.safetensors", run / "last.safetensors")
        )
        assert all((before[name] - after[name]).abs().max() < 1e-12 for name in before)
    for row in rows:
        assert float(row["val_top1"]) * 131 == pytest.approx(
            round(float(row["val_top1"]) * 131), abs=1e-9
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


def test_a_loss_that_one_process_loses_stops_all(tmp_path: Path, images: Path) -> None:
    script = tmp_path / "lost.py"
    script.write_text(_LOST)
    done = subprocess.run(
        [sys.executable, str(script), str(images), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode != 0
    # Both say so, the one whose loss it is not included.
    assert done.stderr.count("RuntimeError: the loss of epoch 0, step 3 (learning rate 1e-06)") == 2


def test_torchrun_with_as_many_processes(tmp_path: Path, images: Path, whole: Path) -> None:
    run = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--master-port", str(free_port())]
    command = ["-m", "transnext_models.cli.train", *_arguments(images, run, 2, 2)]

    def launch(count: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*launcher, "--nproc-per-node", str(count), *command],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=500,
        )

    refused = launch(3)
    assert refused.returncode != 0
    assert "torchrun has started 3 processes" in refused.stderr
    assert not run.exists()
    done = launch(2)
    assert done.returncode == 0, done.stderr
    assert_same_end(whole, run)
