"""A run that was stopped, wherever and however, ends in the bits of one that was not."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training import short_runs
from training.short_runs import (
    Crash,
    CrashAfter,
    StopAfter,
    assert_same_end,
    digits,
    resumed,
    untimed,
)
from training.test_training_run import transnext_train
from transnext_models.training import run as run_module
from transnext_models.training.checkpoint_files import (
    LAST,
    PREVIOUS,
    CheckpointDamaged,
    CheckpointFolder,
    read_checkpoint,
)
from transnext_models.training.run import RunOptions, RunStopped, train

BATCHES = 12  # of a run with SMALL on the fixture's images: three epochs of four


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A run on images that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train(short_runs.images(folder, images))
    return folder


@pytest.fixture(scope="module")
def whole_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on digits that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("whole_digits")
    train(digits(folder))
    return folder


@pytest.fixture
def options(tmp_path: Path, images: Path) -> RunOptions:
    return short_runs.images(tmp_path / "run", images)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of every file."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


# -- exactness ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "batches"),
    [(0, 0, 1), (0, 0, 6), (0, 0, 8), (1, 1, 5), (2, 2, 4), (2, 0, 11), (0, 4, 7)],
)
def test_any_number_of_workers_at_any_step(
    options: RunOptions, whole: Path, before: int, after: int, batches: int
) -> None:
    with pytest.raises(RunStopped, match="SIGTERM after step"):
        train(dataclasses.replace(options, workers=before), callbacks=[StopAfter(batches)])
    place = read_checkpoint(options.output / "checkpoints" / "last.ckpt")
    assert place["epoch"] * 4 + place["training"]["step"] == place["global_step"] == batches
    train(resumed(options, workers=after))
    assert_same_end(whole, options.output)


@pytest.mark.slow
def test_stopped_at_every_step(options: RunOptions, whole: Path) -> None:
    for count in range(BATCHES):
        step = options if count == 0 else resumed(options)
        with pytest.raises(RunStopped):
            train(step, callbacks=[StopAfter(1, signal.SIGINT)])
    train(resumed(options))
    assert_same_end(whole, options.output)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_crash_between_checkpoints_by_steps(options: RunOptions, whole: Path, every: int) -> None:
    with pytest.raises(Crash):
        train(dataclasses.replace(options, checkpoint_every_steps=every), [CrashAfter(7)])
    place = read_checkpoint(options.output / "checkpoints" / "last.ckpt")
    # A checkpoint is written after the callbacks of its step.
    assert place["global_step"] == {1: 6, 2: 6, 3: 6}[every]
    train(resumed(options))
    assert_same_end(whole, options.output)


def test_crash_between_checkpoints_by_minutes(options: RunOptions, whole: Path) -> None:
    with pytest.raises(Crash):
        train(dataclasses.replace(options, checkpoint_every_minutes=1e-6), [CrashAfter(7)])
    assert read_checkpoint(options.output / "checkpoints" / "last.ckpt")["global_step"] == 6
    train(resumed(options))
    assert_same_end(whole, options.output)


def test_without_options_checkpoints_end_epochs(options: RunOptions, whole: Path) -> None:
    with pytest.raises(Crash):
        train(options, [CrashAfter(7)])
    assert read_checkpoint(options.output / "checkpoints" / "last.ckpt")["global_step"] == 4
    train(resumed(options))
    assert_same_end(whole, options.output)


@pytest.mark.parametrize("batches", [1, 2, 3, 4, 7])
def test_accumulated_gradients_are_never_cut(tmp_path: Path, images: Path, batches: int) -> None:
    """Batches 1 and 3 of an epoch of three end no step, the third ends one of its own."""
    changes: dict[str, Any] = {"limit_train_batches": 3, "accumulate": 2}
    whole = short_runs.images(tmp_path / "whole", images, **changes)
    train(whole)
    cut = short_runs.images(tmp_path / "cut", images, **changes)
    with pytest.raises(RunStopped):
        train(cut, [StopAfter(batches)])
    train(resumed(cut))
    assert_same_end(whole.output, cut.output)


@pytest.mark.parametrize("batches", [1, 2, 3, 5])
def test_digits_at_any_step(tmp_path: Path, whole_digits: Path, batches: int) -> None:
    with pytest.raises(RunStopped):
        train(digits(tmp_path), [StopAfter(batches)])
    train(digits(tmp_path, resume=tmp_path))
    assert_same_end(whole_digits, tmp_path)


def test_stopped_while_validating(
    options: RunOptions, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = run_module.ClassifierModule.measure

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return measure(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(run_module.ClassifierModule, "measure", staticmethod(interrupted))
        with pytest.raises(RunStopped):
            train(options)
    place = read_checkpoint(options.output / "checkpoints" / "last.ckpt")
    assert (place["epoch"], place["training"]["step"]) == (1, 4)
    assert not place["training"]["finished"]
    train(resumed(options))
    assert_same_end(whole, options.output)


def test_a_signal_after_the_last_step_does_not_keep_the_weights(
    options: RunOptions, whole: Path
) -> None:
    class StopAtTheEnd:
        def on_train_epoch_end(self, loop: Any, *_: Any) -> None:
            if loop.is_complete:
                signal.raise_signal(signal.SIGTERM)

    train(options, [StopAtTheEnd()])
    assert_same_end(whole, options.output)


# -- the end of a run -----------------------------------------------------------------------------


def test_resuming_a_finished_run_changes_no_byte(options: RunOptions) -> None:
    first = train(options)
    before = snapshot(options.output)
    again = train(resumed(options))
    assert snapshot(options.output) == before
    assert again.metrics == first.metrics


@pytest.mark.parametrize("point", ["export_weights", "export_half", "write_result"])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_killed_during_the_export(
    options: RunOptions, whole: Path, monkeypatch: pytest.MonkeyPatch, point: str, done: bool
) -> None:
    owner: Any = run_module.RunFolder if point == "write_result" else run_module
    original: Callable[..., None] = getattr(owner, point)

    def crash(*arguments: Any) -> None:
        if done:
            original(*arguments)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(owner, point, crash)
        with pytest.raises(Crash):
            train(options)
    with monkeypatch.context() as patch:  # only exports: no step is taken again
        patch.setattr(run_module.ClassifierModule, "training_step", None)
        train(resumed(options))
    assert_same_end(whole, options.output)


@pytest.mark.parametrize("name", ["model.safetensors", "model_float16.safetensors", "result.json"])
def test_a_lost_result_is_written_again(
    options: RunOptions, whole: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(whole, options.output)
    (options.output / name).unlink()
    train(resumed(options))
    assert_same_end(whole, options.output)


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
    best = options.output / "checkpoints" / "best.ckpt"
    with pytest.raises(RunStopped):
        train(dataclasses.replace(options, resume=best), [StopAfter(1)])
    assert untimed(options.output) == untimed(whole)[: read_checkpoint(best)["epoch"] + 1]
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


# -- places and options ---------------------------------------------------------------------------


def test_a_run_moves_to_another_folder(options: RunOptions, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(RunStopped):
        train(options, [StopAfter(9)])
    before = snapshot(options.output)
    moved = tmp_path / "moved"
    train(resumed(options, output=moved))
    assert snapshot(options.output) == before
    assert_same_end(whole, moved)
    with pytest.raises(ValueError, match="already holds a run, another one than --resume"):
        train(resumed(options, output=moved))


def test_weights_to_start_from_are_not_needed_again(
    options: RunOptions, whole: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "start.safetensors"
    shutil.copy(whole / "model.safetensors", weights)
    tuned = dataclasses.replace(options, weights=str(weights))
    with pytest.raises(RunStopped):
        train(tuned, [StopAfter(5)])
    weights.unlink()
    train(resumed(tuned))
    assert (options.output / "result.json").exists()


def test_the_command_keeps_the_options_of_the_run(options: RunOptions, whole: Path) -> None:
    with pytest.raises(RunStopped):
        train(options, [StopAfter(6)])
    result = transnext_train("--resume", str(options.output))
    assert result.exit_code == 0, result.output
    assert_same_end(whole, options.output)


def test_options_given_anew_hold(options: RunOptions) -> None:
    with pytest.raises(RunStopped):
        train(options, [StopAfter(6)])
    result = transnext_train("--resume", str(options.output), "--epochs", "5")
    assert result.exit_code == 1
    assert "epochs was 3 and is 5" in result.stderr
    result = transnext_train("--resume", str(options.output), "--no-float16", "--workers", "1")
    assert result.exit_code == 0, result.output
    assert not (options.output / "model_float16.safetensors").exists()


@pytest.mark.parametrize("how", ["missing", "torn"])
def test_a_lost_configuration_is_found_in_the_checkpoint(
    options: RunOptions, whole: Path, how: str
) -> None:
    with pytest.raises(RunStopped):
        train(options, [StopAfter(6)])
    config = options.output / "config.json"
    content = config.read_bytes()
    config.unlink()
    if how == "torn":
        config.write_bytes(content[:50])
    result = transnext_train("--resume", str(options.output))
    assert result.exit_code == 0, result.output
    assert config.read_bytes() == content
    assert_same_end(whole, options.output)


def test_a_recipe_is_needed_where_no_run_names_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for option, folder in (("--output", "run"), ("--resume", "empty")):
        result = transnext_train(option, str(tmp_path / folder))
        assert result.exit_code == 2
        assert "--recipe" in result.stderr


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"architectures": ["Bert"]}')
    with pytest.raises(ValueError, match=r"config\.json: not the configuration of a run"):
        train(digits(tmp_path))
    assert list(tmp_path.iterdir()) == [config]


def test_options_are_kept_so_that_they_mean_the_same_elsewhere(
    options: RunOptions, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images.parent)
    with pytest.raises(RunStopped):
        train(dataclasses.replace(options, data=images.name), [StopAfter(1)])
    kept = json.loads((options.output / "config.json").read_text())["options"]
    assert kept["data"] == os.path.abspath(images)
