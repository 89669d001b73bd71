"""Streamed shards on two real processes: every image once in an epoch, over ranks and workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from requirements import needs
from training.image_layouts import noise, write_shards
from training.short_runs import assert_same_end, command, free_port

pytestmark = [*needs("braceexpand"), pytest.mark.slow]

SECONDS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 shards of 4 images to train on, 6 shards of 4 to validate on."""
    folder = tmp_path_factory.mktemp("shards")
    content = noise(["ant", "bee"], train=32, val=12, side=32)
    write_shards(content["train"], folder, "train", 16)
    write_shards(content["val"], folder, "val", 6)
    return folder


_READ = """
import hashlib, json, sys
import torch
import torch.distributed as dist
from torchvision.transforms.functional import pil_to_tensor
from transnext_models.classification.preprocess import Preprocess
from transnext_models.training.connection import join_processes
from transnext_models.training.data import ImageData
from transnext_models.training.recipes import get_recipe

train, val, workers, target = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
join_processes("gloo")
recipe = get_recipe("finetune")
preprocess = Preprocess(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
data = ImageData(train, recipe, preprocess, 4, workers, 3, source_val=val, lengths=(64, 24))
data.train_set.transform = data.val_set.transform = pil_to_tensor  # to know the images again
data.shard(dist.get_rank(), dist.get_world_size())

def seen(batches, finish):
    return [
        [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in finish(batch)[0]]
        for batch in batches
    ]

found = {
    "train": [seen(data.train_batches(epoch), data.training_batch) for epoch in range(3)],
    "late": seen(data.train_batches(1, 5), data.training_batch),
    "val": seen(data.val_batches(), data.validation_batch),
}
data.close()
everywhere = [None] * dist.get_world_size()
dist.all_gather_object(everywhere, found)
if dist.get_rank() == 0:
    with open(target, "w") as file:
        json.dump(everywhere, file)
dist.destroy_process_group()
"""


def _shards(folder: Path) -> list[str]:
    splits = ("train", 15), ("val", 5)
    return [f"pipe:cat {folder}/{split}-{{000000..{n:06d}}}.tar" for split, n in splits]


def _read(folder: Path, workers: int, tmp_path: Path) -> list[dict[str, list]]:  # type: ignore[type-arg]
    """What each of two processes reads: batches of images' hashes."""
    script, target = tmp_path / "read.py", tmp_path / f"{workers}.json"
    script.write_text(_READ)
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), *_shards(folder), str(workers), str(target)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **together, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in (0, 1)
    ]
    for process in processes:
        _, error = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, error
    found: list[dict[str, list]] = json.loads(target.read_text())  # type: ignore[type-arg]
    return found


def _flat(batches: list[list[str]]) -> list[str]:
    return [image for batch in batches for image in batch]


def test_every_image_comes_once_in_an_epoch(folder: Path, tmp_path: Path) -> None:
    by_workers = {workers: _read(folder, workers, tmp_path) for workers in (0, 2)}
    first = by_workers[0]
    epochs = [[_flat(rank["train"][epoch]) for rank in first] for epoch in range(3)]
    for ranks in epochs:
        assert [len(rank) for rank in ranks] == [32, 32]
        counts = Counter(ranks[0] + ranks[1])
        assert (len(counts), {*counts.values()}) == (64, {1})
    # The shards are dealt out anew in every epoch.
    assert {*epochs[0][0]} != {*epochs[1][0]}
    validated = [_flat(rank["val"]) for rank in first]
    assert len(validated[0]) == len(validated[1]) == 12
    assert len({*validated[0], *validated[1]}) == 24
    assert [rank["late"] for rank in first] == [rank["train"][1][5:] for rank in first]
    # However many processes load.
    assert by_workers[2] == first


def _train(folder: Path, run: Path, workers: int, *more: str) -> Path:
    shards = _shards(folder)
    arguments = [
        *("--recipe", "imagenet_224", "--model", "transnext_pico", "--num-classes", "2"),
        *("--data", shards[0], "--data-val", shards[1], "--epoch-length", "64"),
        *("--val-length", "24", "--img-size", "32", "--batch-size", "4", "--epochs", "2"),
        *("--devices", "2", "--workers", str(workers), "--no-report", "--output", str(run), *more),
    ]
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.long
def test_two_processes_train_to_the_same_weights_for_any_workers(
    folder: Path, tmp_path: Path
) -> None:
    whole = _train(folder, tmp_path / "0", 0)
    assert_same_end(whole, _train(folder, tmp_path / "2", 2))
