"""A dry run tries everything, measures it, and writes nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from training import short_runs
from training.short_runs import digits, started
from training.test_training_run import transnext_train
from transnext_models.training import dry_run as module
from transnext_models.training.dry_run import DryRun, dry_run
from transnext_models.training.module import ClassifierModule
from transnext_models.training.run import RunOptions


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.3)


def _found(**changes: Any) -> DryRun:
    values: dict[str, Any] = {
        "train_images": 1_281_167, "val_images": 50_000, "classes": 1000, "read": 2000,
        "model": "transnext_tiny", "parameters": 28_258_960, "trained_parameters": 28_258_960,
        "img_size": 224, "total_batch": 1024, "device_name": "H200", "processes": 8, "workers": 4,
        "epochs": 300, "loader": 9000.0, "device": 5000.0, "together": 4800.0,
        "validation": 9000.0, "memory": 24 << 30, "memory_available": 140 << 30,
        "seconds": 90_000.0,
    }  # fmt: skip
    return DryRun(**{**values, **changes})


def test_a_folder_is_tried(images: Path, options: RunOptions, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    found = dry_run(options)
    assert sorted(tmp_path.rglob("*")) == before
    assert (found.train_images, found.val_images, found.classes) == (18, 6, 3)
    assert found.read == 2 * 3 + 6  # two of each class, and all that validate
    assert (found.img_size, found.total_batch, found.epochs, found.processes) == (32, 4, 3, 1)
    assert found.parameters == found.trained_parameters > 0
    assert min(found.loader, found.device, found.together, found.validation) > 0
    assert found.together <= 1.5 * min(found.loader, found.device)
    # Three epochs of four batches of four, and six images to validate.
    expected = 3 * (16 / found.together + 6 / min(found.validation, found.loader))
    assert found.seconds == pytest.approx(expected)
    assert 0 < found.memory < found.memory_available


def test_the_command_reports_and_needs_no_folder(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = transnext_train(
        *("--recipe", "finetune", "--data", str(images), "--model", "transnext_pico"),
        *("--linear-probe", "--batch-size", "4", "--workers", "1", "--devices", "1", "--dry-run"),
    )
    assert result.exit_code == 0, result.output
    assert list(tmp_path.iterdir()) == []
    names = [line.partition(":")[0] for line in result.stdout.splitlines()]
    assert names == [
        *("data", "model", "batch", "memory", "loader", "device", "together", "validation"),
        *("run", "limit"),
    ]
    assert "435 trained" in result.stdout  # the classifier of 144 channels and 3 classes


def test_a_run_in_the_folder_is_left_alone(whole: Path, options: RunOptions) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    dry_run(dataclasses.replace(options, output=whole))
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_the_report_says_it_all() -> None:
    assert _found().lines() == [
        "data: 1,281,167 training and 50,000 validation images in 1,000 classes; 2,000 read",
        "model: transnext_tiny, 224×224, 28,258,960 parameters, 28,258,960 trained",
        "batch: 1024 images per step on 8 × H200",
        "memory: 24.00 GiB of 140.0",
        "loader: 9,000 images/s with 4 processes per device",
        "device: 5,000 images/s",
        "together: 4,800 images/s",
        "validation: 9,000 images/s on the device",
        "run: 300 epochs in 1 day 1:00:00",
        "limit: the device",
    ]


@pytest.mark.parametrize(
    ("loader", "cores", "limit"),
    [
        (2500, 64, "the loader: more --workers would help, up to 64 for 64 cores"),
        (2500, 32, "the loader: 32 processes on 32 cores; more cores would help"),
        (5600, 32, "the device"),
    ],
)
def test_what_limits_is_named(
    monkeypatch: pytest.MonkeyPatch, loader: float, cores: int, limit: str
) -> None:
    monkeypatch.setattr(module.os, "cpu_count", lambda: cores)
    assert _found(loader=float(loader)).limit == limit


def test_a_batch_that_does_not_fit_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ClassifierModule, "training_step", full)
    message = r"--batch-size: got 8, which does not fit the memory of CPU: lower it"
    with pytest.raises(RuntimeError, match=message):
        dry_run(digits(tmp_path))


def test_mistakes_are_named_as_in_a_run(options: RunOptions, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--num-classes: got 5, needs 3"):
        dry_run(dataclasses.replace(options, num_classes=5))
    broken = tmp_path / "broken"
    short_runs.write_images(broken)
    for path in broken.rglob("*.jpg"):
        path.write_bytes(b"\xff\xd8 no image")
    with pytest.raises(RuntimeError, match="images cannot be read"):
        dry_run(dataclasses.replace(options, data=str(broken)))


@pytest.mark.slow
@pytest.mark.long
def test_two_processes_measure_together(options: RunOptions, images: Path) -> None:
    arguments = [
        *("--recipe", "finetune", "--data", str(images), "--model", "transnext_pico"),
        *("--batch-size", "4", "--workers", "1", "--devices", "2", "--dry-run"),
    ]
    with started(*arguments) as process:
        out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert "batch: 8 images per step on 2 × CPU" in out
    assert out.count("limit:") == 1
