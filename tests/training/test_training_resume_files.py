"""A run goes on from files that were damaged, lost or not written yet."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from training.resumed_runs import snapshot
from training.short_runs import (
    Crash,
    CrashAfter,
    StopAfter,
    assert_same_end,
    resumed,
    untimed,
)
from transnext_models.training.checkpoint_files import (
    LAST,
    PREVIOUS,
    CheckpointDamaged,
    CheckpointFolder,
    read_checkpoint,
)
from transnext_models.training.run import RunOptions, RunStopped, train

# -- files that are not as they should be ---------------------------------------------------------


def _damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "flipped":
        content[len(content) // 2] ^= 1
    elif how == "empty":
        content = bytearray()
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "flipped", "empty"])
@pytest.mark.parametrize("by_file", [False, True], ids=["folder", "file"])
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
    options: RunOptions, whole: Path, capfd: pytest.CaptureFixture[str], how: str, by_file: bool
) -> None:
    with pytest.raises(Crash):
        train(dataclasses.replace(options, checkpoint_every_steps=1), [CrashAfter(7)])
    last, previous = (options.output / "checkpoints" / name for name in (LAST, PREVIOUS))
    good = previous.read_bytes()
    _damage(last, how)
    capfd.readouterr()
    again = dataclasses.replace(options, resume=last if by_file else options.output)
    with pytest.raises(RunStopped):
        train(again, [StopAfter(1)])
    said = capfd.readouterr().err
    assert f"{last}: damaged" in said
    assert f"going on from the one before, {previous}" in said
    if not by_file:
        assert previous.read_bytes() == good  # not replaced by the damaged one
    train(resumed(options))
    assert_same_end(whole, options.output)


def test_a_lost_newest_checkpoint_is_replaced_by_the_one_before(
    options: RunOptions, whole: Path
) -> None:
    with pytest.raises(Crash):
        train(dataclasses.replace(options, checkpoint_every_steps=1), [CrashAfter(7)])
    (options.output / "checkpoints" / "last.ckpt").unlink()
    train(resumed(options))
    assert_same_end(whole, options.output)


def test_damage_everywhere_is_refused_by_name(options: RunOptions) -> None:
    with pytest.raises(Crash):
        train(dataclasses.replace(options, checkpoint_every_steps=1), [CrashAfter(7)])
    for name in ("last", "previous"):
        _damage(options.output / "checkpoints" / f"{name}.ckpt", "cut")
    before = snapshot(options.output)
    with pytest.raises(CheckpointDamaged, match=r"last\.ckpt: damaged.*previous\.ckpt: damaged"):
        train(resumed(options))
    assert snapshot(options.output) == before


def test_metrics_are_repaired(options: RunOptions, whole: Path) -> None:
    """A torn line is completed, rows that are ahead of the weights go."""
    with pytest.raises(Crash):
        train(options, [CrashAfter(9)])
    metrics = options.output / "metrics.csv"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join([*lines[:-1], lines[-1][:7]]))
    with pytest.raises(RunStopped):
        train(resumed(options), [StopAfter(1)])
    assert untimed(options.output) == untimed(whole)[:2]
    with metrics.open("a") as file:
        file.write("2,99,0.1\n3,4")
    train(resumed(options))
    assert_same_end(whole, options.output)


def test_going_back_drops_what_came_after(options: RunOptions, whole: Path) -> None:
    shutil.copytree(whole, options.output)
    before = options.output / "checkpoints" / "previous.ckpt"
    assert read_checkpoint(before)["epoch"] == 1
    with pytest.raises(RunStopped):
        train(dataclasses.replace(options, resume=before), [StopAfter(1)])
    assert untimed(options.output) == untimed(whole)[:2]
    assert not (options.output / "result.json").exists()
    train(resumed(options))
    assert_same_end(whole, options.output)


def test_a_best_checkpoint_that_was_not_copied_is_copied_later(
    options: RunOptions, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between last.ckpt and best.ckpt, after the first validation."""

    def crash(*_: Any) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointFolder, "keep_best", crash)
        with pytest.raises(Crash):
            train(options)
    assert not (options.output / "checkpoints" / "best.ckpt").exists()
    with pytest.raises(RunStopped):
        train(resumed(options), [StopAfter(1)])
    assert read_checkpoint(options.output / "checkpoints" / "best.ckpt")["epoch"] == 1
    train(resumed(options))
    assert_same_end(whole, options.output)


# -- before the first checkpoint ------------------------------------------------------------------


def _begin_and_crash(options: RunOptions) -> None:
    with pytest.raises(Crash):
        train(options, [CrashAfter(1)])
    assert (options.output / "config.json").exists()
    assert not list((options.output / "checkpoints").iterdir())


@pytest.mark.parametrize("by", ["output", "resume"])
def test_killed_before_the_first_checkpoint(options: RunOptions, whole: Path, by: str) -> None:
    _begin_and_crash(options)
    config = (options.output / "config.json").read_bytes()
    train(options if by == "output" else resumed(options))
    assert (options.output / "config.json").read_bytes() == config
    assert_same_end(whole, options.output)


def test_killed_before_its_configuration_was_written(options: RunOptions, whole: Path) -> None:
    _begin_and_crash(options)
    (options.output / "config.json").unlink()
    train(resumed(options))
    assert_same_end(whole, options.output)


@pytest.mark.parametrize("by", ["output", "resume"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"epochs": 4}, "epochs was 3 and is 4"),
        ({"limit_train_batches": 1}, "limit_train_batches was None and is 1"),
        ({"lr": 0.5}, "peak_lr was 0.001 and is 0.5"),
    ],
)
def test_another_run_does_not_take_over_a_folder(
    options: RunOptions, by: str, changes: dict[str, Any], message: str
) -> None:
    _begin_and_crash(options)
    before = snapshot(options.output)
    other = dataclasses.replace(options if by == "output" else resumed(options), **changes)
    with pytest.raises(ValueError, match=f"--{by} .*{message}"):
        train(other)
    assert snapshot(options.output) == before


def test_other_images_are_another_run(options: RunOptions, images: Path, tmp_path: Path) -> None:
    with pytest.raises(RunStopped):
        train(options, [StopAfter(2)])
    other = tmp_path / "other"
    shutil.copytree(images, other)
    next((other / "train" / "ant").iterdir()).unlink()
    with pytest.raises(ValueError, match="train_images was 18 and is 17"):
        train(resumed(options, data=str(other)))
