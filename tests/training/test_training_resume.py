"""A run that was stopped, wherever and however, ends in the bits of one that was not."""

from __future__ import annotations

import dataclasses
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training import short_runs
from training.resumed_runs import snapshot
from training.short_runs import (
    Crash,
    CrashAfter,
    StopAfter,
    assert_same_end,
    digits,
    resumed,
    untimed,
)
from transnext_models.training import export as export_module
from transnext_models.training.checkpoint_files import (
    read_checkpoint,
)
from transnext_models.training.module import ClassifierModule
from transnext_models.training.run import RunOptions, RunStopped, train

BATCHES = 12  # of a run with SMALL on the fixture's images: three epochs of four


@pytest.fixture(scope="module")
def whole_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on digits that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("whole_digits")
    train(digits(folder))
    return folder


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


@pytest.mark.parametrize("batches", [1, 2, 3, 4, 5])
def test_accumulated_gradients_are_never_cut(tmp_path: Path, images: Path, batches: int) -> None:
    """The first batch of an epoch of three ends no step, and the third is left out."""
    changes: dict[str, Any] = {"limit_train_batches": 3, "accumulate": 2}
    whole = short_runs.images(tmp_path / "whole", images, **changes)
    train(whole)
    assert [row["step"] for row in untimed(whole.output)] == ["1", "2", "3"]
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
    measure = ClassifierModule.measure

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return measure(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ClassifierModule, "measure", staticmethod(interrupted))
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
    owner: Any = export_module.RunFolder if point == "write_result" else export_module
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
        patch.setattr(ClassifierModule, "training_step", None)
        train(resumed(options))
    assert_same_end(whole, options.output)


@pytest.mark.parametrize("name", short_runs.EXPORTS)
def test_a_lost_result_is_written_again(
    options: RunOptions, whole: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(whole, options.output)
    (options.output / name).unlink()
    train(resumed(options))
    assert_same_end(whole, options.output)
