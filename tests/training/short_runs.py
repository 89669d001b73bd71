"""Runs of seconds, and what must be equal where one of them was interrupted."""

from __future__ import annotations

import csv
import dataclasses
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from transnext_models.checkpoints import read_state_dict
from transnext_models.training.checkpoint_files import read_checkpoint
from transnext_models.training.recipes import RECIPES
from transnext_models.training.run import RunOptions

CLASSES = ("ant", "bee", "cat")
TIMINGS = {"seconds", "cpu_seconds", "images_per_second"}
EXPORTS = (
    "last.safetensors",
    "last_float16.safetensors",
    "model.safetensors",
    "model_float16.safetensors",
    "result.json",
)

SMALL = dataclasses.replace(
    RECIPES["imagenet_224"],
    name="small_images",
    model="transnext_pico",
    img_size=32,
    pretrain_size=32,
    num_classes=3,
    epochs=3,
    batch_size=4,
    total_batch=4,
    warmup_epochs=1,
    drop_path={"transnext_pico": 0.3},
    ema_decay=0.9,
    validate_every=2,
)
"""The published augmentation with all else that draws random numbers or has a state, in little."""


def write_images(
    folder: Path, train: int = 6, val: int = 2, sides: tuple[int, int] = (50, 90)
) -> None:
    """Write a folder in ImageNet's layout: three classes of coloured noise, of several sizes.

    `train` and `val` are the images of each class, `sides` the range of their sides.
    """
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                shape = (*rng.integers(*sides, 2), 3)
                pixels = rng.integers(0, 120, shape) + 120 * (np.arange(3) == label)
                picture = Image.fromarray(pixels.astype(np.uint8))
                picture.save(folder / split / name / f"{index}.{'png' if index % 2 else 'jpg'}")


def digits(folder: Path, **changes: Any) -> RunOptions:
    """Six steps on digits."""
    options: dict[str, Any] = {
        "recipe": "digits",
        "output": folder,
        "epochs": 3,
        "batch_size": 8,
        "limit_train_batches": 2,
        "limit_val_batches": 1,
        "devices": "1",
        "report": False,
    }
    return RunOptions(**{**options, **changes})


def images(folder: Path, data: Path, **changes: Any) -> RunOptions:
    """Three epochs of the recipe SMALL, which the fixture `small_recipe` makes known."""
    options: dict[str, Any] = {
        "recipe": SMALL.name,
        "data": str(data),
        "output": folder,
        "workers": 0,
        "devices": "1",
        "report": False,
    }
    return RunOptions(**{**options, **changes})


def finetuned(folder: Path, data: Path, **changes: Any) -> RunOptions:
    """One epoch of the recipe `finetune` from the digits model, at its own size."""
    options: dict[str, Any] = {"recipe": "finetune", "model": "transnext_pico", "epochs": 1}
    return images(folder, data, **{**options, "batch_size": 6, **changes})


def resumed(options: RunOptions, **changes: Any) -> RunOptions:
    """The options that continue a run in its folder."""
    return dataclasses.replace(options, resume=options.output, **changes)


def metrics(folder: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv."""
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def untimed(folder: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv without what no two runs share."""
    return [
        {name: value for name, value in row.items() if name not in TIMINGS}
        for row in metrics(folder)
    ]


def assert_same_end(expected: Path, found: Path, same_names: bool = True) -> None:
    """Two runs have ended in the same bits: weights, averages, optimiser, metrics, exports.

    Without `same_names`, one of them did not know the names of its classes.
    """
    assert untimed(expected) == untimed(found)
    for name in EXPORTS:
        assert (expected / name).exists() == (found / name).exists()
        if (expected / name).exists():
            if same_names or not name.endswith(".safetensors"):
                assert (expected / name).read_bytes() == (found / name).read_bytes(), name
            else:
                assert_equal(read_state_dict(expected / name), read_state_dict(found / name))
    states = [read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (expected, found)]
    for state in states:
        for row in state["training"]["rows"]:
            for name in TIMINGS:
                row.pop(name)
        del state["configuration"]["options"]
        if not same_names:
            del state["configuration"]["class_names"]
    assert_equal(*states)
    best = [read_state_dict(run / "checkpoints" / "best.ckpt") for run in (expected, found)]
    assert_equal(*best)


def assert_equal(expected: Any, found: Any, where: str = "") -> None:
    """Compare nested data, tensors bit by bit."""
    assert type(expected) is type(found), where
    if isinstance(expected, torch.Tensor):
        assert torch.equal(expected, found), where
    elif isinstance(expected, dict):
        assert expected.keys() == found.keys(), where
        for key in expected:
            assert_equal(expected[key], found[key], f"{where}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(expected) == len(found), where
        for index, (first, second) in enumerate(zip(expected, found, strict=True)):
            assert_equal(first, second, f"{where}[{index}]")
    else:
        assert expected == found, where


class StopAfter:
    """A callback that stops the run after so many batches, counted in this process."""

    def __init__(self, batches: int, number: int = signal.SIGTERM) -> None:
        self.left = batches
        self.number = number

    def on_train_batch_end(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(self.number)


class CrashAfter(StopAfter):
    """A callback that ends the run as a crash does, without a checkpoint."""

    def on_train_batch_end(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise Crash


class Crash(Exception):
    """What `CrashAfter` raises."""


def command(*arguments: str | Path) -> list[str]:
    """The command line of `transnext train` in a process of its own."""
    return [sys.executable, "-m", "transnext_models.cli.train", *map(str, arguments)]


def write_odd_images(folder: Path) -> None:
    """Write 16 images to train on and 41 to validate on, which no two or three processes share
    evenly, in two classes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 41)):
        for index in range(count):
            place = folder / split / CLASSES[index % 2]
            place.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{index}.png")


def on_odd_images(
    images: Path, run: Path, devices: int, batch: int, *more: str, workers: int = 1
) -> list[str]:
    """Arguments of the command for three epochs of the published augmentation on these images."""
    return [
        *("--recipe", "imagenet_224", "--model", "transnext_pico", "--num-classes", "2"),
        *("--data", str(images), "--img-size", "32", "--workers", str(workers)),
        *("--epochs", "3", "--batch-size", str(batch), "--devices", str(devices)),
        *("--output", str(run), "--no-report", *more),
    ]


def finish(*arguments: str) -> str:
    """Run the command to its good end; what it says."""
    with started(*arguments) as process:
        _, error = process.communicate(timeout=500)
    assert process.returncode == 0, error
    return error


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        number: int = free.getsockname()[1]
        return number


@contextmanager
def started(
    *arguments: str | Path, program: list[str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Run the command, or `program`, in a session of its own, all of which ends with the block."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    process = subprocess.Popen(
        command(*arguments) if program is None else [*program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        **options,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
