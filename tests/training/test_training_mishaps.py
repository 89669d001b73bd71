"""Unreadable images, loading processes that die, a full disk: said clearly, and nothing lost."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from training import short_runs
from training.short_runs import StopAfter, assert_same_end, metrics, resumed
from training.test_training_files import FullDisk
from training.test_training_run import transnext_train
from transnext_models.classification.preprocess import Preprocess
from transnext_models.training.data import ImageData
from transnext_models.training.durable import RunFileError
from transnext_models.training.recipes import get_recipe
from transnext_models.training.run import RunStopped, train

PREPROCESS = Preprocess(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


# -- images ---------------------------------------------------------------------------------------


def _spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_bytes(b"not an image")
    elif how == "missing":
        path.unlink()


@pytest.fixture
def copied(images: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    return folder


@pytest.mark.parametrize("how", ["cut", "empty", "text"])
@pytest.mark.parametrize("name", ["train/bee/0.jpg", "train/bee/1.png"])
def test_an_unreadable_image_is_left_out_and_named(
    copied: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], how: str, name: str
) -> None:
    _spoil(copied / name, how)
    whole = short_runs.images(tmp_path / "whole", copied)
    train(whole)
    said = capfd.readouterr().err
    assert said.count(f"left out, since it cannot be read: {copied / name}\n") == 1
    assert [int(row["step"]) for row in metrics(whole.output)] == [4, 8, 12]
    # And it is left out in the same way where the run is resumed, and by loading processes.
    cut = dataclasses.replace(whole, output=tmp_path / "cut", workers=1)
    with pytest.raises(RunStopped):
        train(cut, [StopAfter(6)])
    train(resumed(cut))
    assert_same_end(whole.output, cut.output)


def test_an_image_that_is_gone_since_the_run_began(copied: Path, tmp_path: Path) -> None:
    data = ImageData(str(copied), get_recipe("imagenet_224"), PREPROCESS, 6, 0, seed=0)
    _spoil(copied / "train/ant/2.jpg", "missing")
    served = [data.training_batch(batch) for batch in data.train_batches(0)]
    assert [len(images) for images, _ in served] == [6, 6, 6]


def test_the_neighbour_stands_in_with_its_own_label(copied: Path) -> None:
    """Of an image that cannot be read the next one is augmented, which has another class here."""
    recipe = get_recipe("imagenet_224")
    recipe = dataclasses.replace(
        recipe, augmentation=dataclasses.replace(recipe.augmentation, repeats=1)
    )
    _spoil(copied / "train/ant/5.png", "cut")
    data = ImageData(str(copied), recipe, PREPROCESS, 18, 0, seed=0)
    images, labels = data.training_batch(next(data.train_batches(0)))
    assert labels.bincount().tolist() == [5, 7, 6]
    # The classes are colours: what is served as a bee is one.
    assert (images[labels == 1].mean(dim=(2, 3)).argmax(dim=1) == 1).float().mean() > 0.5


def test_too_many_unreadable_images_are_an_error(copied: Path, tmp_path: Path) -> None:
    for index in (0, 2, 4):
        _spoil(copied / "train" / "cat" / f"{index}.jpg", "cut")
    with pytest.raises(RuntimeError, match=r"(?s)\d of 18 training images cannot be read.*cat"):
        train(short_runs.images(tmp_path / "run", copied))


def test_data_out_of_reach_is_an_error(copied: Path, tmp_path: Path) -> None:
    data = ImageData(str(copied), get_recipe("imagenet_224"), PREPROCESS, 6, 0, seed=0)
    shutil.rmtree(copied / "train")
    with pytest.raises(RuntimeError, match=r"10 images in a row cannot be read, from .*FileNotFo"):
        next(data.train_batches(0))


def test_unreadable_validation_images_do_not_count(
    copied: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _spoil(copied / "val/ant/0.jpg", "cut")
    data = ImageData(str(copied), get_recipe("imagenet_224"), PREPROCESS, 4, 0, seed=0)
    batches = [data.validation_batch(batch) for batch in data.val_batches()]
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 1, 2, 2]
    assert "val/ant/0.jpg" in capfd.readouterr().err


# -- loading processes ----------------------------------------------------------------------------


class _KillALoader:
    """Ends one loading process, as the kernel does where memory runs out."""

    def on_train_batch_end(self, loop: Any, *_: Any) -> None:
        if loop.global_step == 5:
            loader = multiprocessing.active_children()[0].pid
            assert loader is not None
            os.kill(loader, signal.SIGKILL)


def test_a_loading_process_that_dies(tmp_path: Path, images: Path, whole: Path) -> None:
    options = short_runs.images(tmp_path, images, workers=2)
    ended = rf"a loading process has ended.*--resume {tmp_path}"
    with pytest.raises(RuntimeError, match=ended) as caught:
        train(options, [_KillALoader()])
    # Others that go on, for as long as the traceback lives, would be waited for at exit.
    assert not multiprocessing.active_children()
    del caught
    train(resumed(options))
    assert_same_end(whole, tmp_path)


# -- the disk -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_disk_that_fills_up_in_any_file(
    tmp_path: Path, images: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once in the middle of each file that a run writes, in the order of writing."""
    with monkeypatch.context() as patch:
        disk = FullDisk(patch, 10**9)
        train(short_runs.images(tmp_path / "traced", images))
    last, best, table = "last.ckpt", "best.ckpt", "metrics.csv"
    names = [name for name, _ in disk.files]
    assert names[:4] == ["config.json", last, table, last]
    assert tuple(names[-5:]) == short_runs.EXPORTS
    assert names.count(last) == names.count(table) == 3
    assert best in names

    for number, (name, size) in enumerate(disk.files):
        options = short_runs.images(tmp_path / str(number), images)
        with monkeypatch.context() as patch:
            FullDisk(patch, size // 2, passed=number)
            with pytest.raises(RunFileError, match=r"cannot be written \(No space left") as caught:
                train(options)
        how = "start again" if name == "config.json" else f"continue with --resume {options.output}"
        assert str(caught.value).startswith(str(options.output))
        assert f"{name}: cannot be written" in str(caught.value)
        assert str(caught.value).endswith(how)
        assert not list(options.output.rglob(".*"))
        train(options if name == "config.json" else resumed(options))
        assert_same_end(whole, options.output)


def test_the_command_says_what_to_do_about_a_full_disk(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    FullDisk(monkeypatch, 1_000_000)
    result = transnext_train(
        *("--recipe", short_runs.SMALL.name, "--data", str(images), "--workers", "0"),
        *("--devices", "1", "--output", str(run)),
    )
    assert result.exit_code == 1
    said = result.stderr.replace("\n", "")
    assert "last.ckpt: cannot be written (No space left on device): free some space" in said
    assert f"then continue with --resume {run}" in said
    assert "Traceback" not in said


def test_leftovers_of_a_killed_process_are_swept_up(tmp_path: Path, images: Path) -> None:
    options = short_runs.images(tmp_path, images)
    with pytest.raises(RunStopped):
        train(options, [StopAfter(1)])
    ours = [".config.json.part", ".model.safetensors.part", "checkpoints/.last.ckpt.part"]
    others = [".notes.part", "checkpoints/.mine.ckpt.part"]
    for name in (*ours, *others):
        (tmp_path / name).write_bytes(b"half")
    train(resumed(options))
    assert [name for name in (*ours, *others) if (tmp_path / name).exists()] == others
