"""Checkpoints that are written while training goes on hold the step at which they were due."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from training import short_runs
from training.short_runs import StopAfter, assert_equal, assert_same_end, resumed, started
from training.test_training_files import FullDisk
from transnext_models.training.checkpoint_files import LAST, read_checkpoint
from transnext_models.training.checkpoint_writer import CheckpointWriter, Snapshot
from transnext_models.training.durable import RunFileError
from transnext_models.training.run import RunOptions, RunStopped, train
from transnext_models.training.run_folder import RunFolder

Content = dict[str, Any]

# -- the copy -------------------------------------------------------------------------------------


def _content() -> Content:
    return {
        "weights": {"a": torch.arange(6.0).reshape(2, 3).t(), "step": torch.tensor(1)},
        "rows": [{"epoch": 0, "loss": 1.5}],
        "betas": (0.9, 0.999),
        "none": None,
    }


def test_a_copy_is_equal_and_shares_nothing() -> None:
    content, expected = _content(), _content()
    copy = Snapshot().of(content)
    assert_equal(expected, copy)
    assert copy["weights"]["a"].stride() == content["weights"]["a"].stride()
    content["weights"]["a"].zero_()
    content["weights"]["step"] += 1
    content["rows"].append({})
    content["rows"][0]["loss"] = 0.0
    assert_equal(expected, copy)


def test_the_next_copy_takes_the_memory_of_the_one_before() -> None:
    snapshot, content = Snapshot(), _content()
    before = snapshot.of(content)["weights"]["a"].data_ptr()
    content["weights"]["a"] += 1
    again = snapshot.of(content)
    assert again["weights"]["a"].data_ptr() == before
    assert_equal(content, again)
    # What has another shape since then has memory of its own, and so has what follows it.
    content["weights"] = {"a": torch.ones(5), "b": torch.ones(2, dtype=torch.int8), **_content()}
    assert_equal(content, snapshot.of(content))
    assert_equal(_content(), snapshot.of(_content()))


# -- one after another ----------------------------------------------------------------------------


class _Slow:
    """Writes into a list, when it is let to, and notes how many write at a time."""

    def __init__(self) -> None:
        self.may_write = threading.Event()
        self.written: list[tuple[Content, bool]] = []
        self.writing = 0

    def __call__(self, content: Content, is_best: bool) -> None:
        assert self.writing == 0
        self.writing += 1
        assert self.may_write.wait(60)
        self.written.append((dict(content), is_best))
        self.writing -= 1


def test_saving_returns_before_it_is_written_and_waits_for_the_one_before() -> None:
    slow = _Slow()
    state = {"step": 1}
    with CheckpointWriter(slow, in_background=True) as writer:
        writer.save(state, False)
        state["step"] = 2
        assert slow.written == []
        threading.Timer(0.1, slow.may_write.set).start()
        writer.save(state, True)  # waits for the timer
        assert slow.written[0] == ({"step": 1}, False)
        state["step"] = 3
    assert slow.written == [({"step": 1}, False), ({"step": 2}, True)]


def test_in_the_foreground_saving_writes() -> None:
    slow = _Slow()
    slow.may_write.set()
    with CheckpointWriter(slow, in_background=False) as writer:
        writer.save({}, True)
        assert slow.written == [({}, True)]


def _failing(content: Content, is_best: bool) -> None:
    raise RunFileError("last.ckpt: cannot be written (No space left on device)")


@pytest.mark.parametrize("act", ["leave", "wait", "save"])
def test_a_fault_comes_out_with_the_next_call(act: str) -> None:
    def use() -> None:
        with CheckpointWriter(_failing, in_background=True) as writer:
            writer.save({}, False)
            while not writer.has_failed:
                time.sleep(0.001)
            if act == "wait":
                writer.wait()
            elif act == "save":
                writer.save({}, False)

    with pytest.raises(RunFileError, match="No space left"):
        use()


def test_another_error_goes_before_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    def use() -> None:
        with CheckpointWriter(_failing, in_background=True) as writer:
            writer.save({}, False)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert "last.ckpt: cannot be written" in capsys.readouterr().err


# -- runs -----------------------------------------------------------------------------------------


class _Kept:
    """Keeps a copy of every checkpoint of a run; the writing of each is delayed."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, delay: float) -> None:
        self.folder = folder
        self.steps: list[int] = []
        folder.mkdir()
        save = RunFolder.save

        def slowly(run: RunFolder, content: Content, *arguments: Any, **named: Any) -> None:
            time.sleep(delay)
            save(run, content, *arguments, **named)
            self.steps.append(content["global_step"])
            shutil.copy(run.last_checkpoint, folder / f"{len(self.steps)}.ckpt")

        patch.setattr(RunFolder, "save", slowly)

    def contents(self) -> list[Content]:
        found = [read_checkpoint(self.folder / f"{i + 1}.ckpt") for i in range(len(self.steps))]
        for content in found:
            del content["configuration"]["options"]
            for row in content["training"]["rows"]:
                for name in short_runs.TIMINGS:
                    row.pop(name, None)
        return found


def test_every_checkpoint_is_of_its_own_step(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, averages, moments and sums have moved on for long when it is written."""
    kept = []
    for background in (True, False):
        options = short_runs.images(
            tmp_path / f"run_{background}",
            images,
            checkpoint_every_steps=1,
            async_checkpoints=background,
        )
        with monkeypatch.context() as patch:
            delay = 0.2 if background else 0.0
            kept.append(_Kept(patch, tmp_path / f"kept_{background}", delay))
            train(options)
    assert kept[0].steps == kept[1].steps
    assert len(kept[0].steps) > 12
    assert_equal(kept[1].contents(), kept[0].contents())
    assert_same_end(tmp_path / "run_False", tmp_path / "run_True")


def _stopped(options: RunOptions, after: int) -> None:
    with pytest.raises(RunStopped):
        train(options, [StopAfter(after)])


@pytest.mark.parametrize("after", [2, 6])
def test_a_run_that_stops_has_its_checkpoint_on_the_disk(
    options: RunOptions, whole: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    with monkeypatch.context() as patch:
        _Kept(patch, options.output.with_name("kept"), 0.3)
        _stopped(dataclasses.replace(options, checkpoint_every_steps=1), after)
    found = read_checkpoint(options.output / "checkpoints" / LAST)
    assert found["global_step"] == after
    train(resumed(options))
    assert_same_end(whole, options.output)


def test_a_disk_that_fills_up_stops_the_run_at_the_next_step(
    options: RunOptions, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not train on to the end of an epoch, or of the run, that nothing can be kept of."""
    seen: list[int] = []

    class Watch:
        def on_train_batch_end(self, loop: Any, *_: Any) -> None:
            seen.append(loop.global_step)
            until = time.monotonic() + 60
            while len(seen) == 2 and not loop._writer.has_failed and time.monotonic() < until:
                time.sleep(0.001)

    with monkeypatch.context() as patch:
        FullDisk(patch, 1_000_000, passed=1)
        with pytest.raises(RunFileError, match=r"last\.ckpt: cannot be written \(No space left"):
            train(dataclasses.replace(options, checkpoint_every_steps=1), [Watch()])
    assert seen == [1, 2]
    train(dataclasses.replace(options, auto_resume=True))
    assert_same_end(whole, options.output)


def test_checkpoints_every_so_many_minutes(
    options: RunOptions, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        kept = _Kept(patch, options.output.with_name("kept"), 0.0)
        train(dataclasses.replace(options, checkpoint_every_minutes=1e-9))
    assert sorted({*kept.steps}) == list(range(1, 13))
    assert_same_end(whole, options.output)


_SLOW_DISK = """
import os, time
import typer
from transnext_models.cli.train import register
sync = os.fsync

def slowly(handle):
    time.sleep(0.7)
    sync(handle)

os.fsync = slowly
app = typer.Typer()
register(app)
app()
"""


@pytest.mark.long
@pytest.mark.slow
def test_killed_while_one_is_written_and_steps_go_on(tmp_path: Path, images: Path) -> None:
    """The checkpoint before is whole, and the run goes on from there."""
    arguments = [
        *("--recipe", "imagenet_224", "--model", "transnext_pico", "--num-classes", "3"),
        *("--data", str(images), "--img-size", "32", "--workers", "0", "--devices", "1"),
        *("--epochs", "3", "--batch-size", "4", "--no-report", "--checkpoint-every-steps", "1"),
    ]
    whole, run = tmp_path / "whole", tmp_path / "run"
    script = tmp_path / "slow_disk.py"
    script.write_text(_SLOW_DISK)
    _finish(*arguments, "--output", whole)
    with started(*arguments, "--output", run, program=[sys.executable, str(script)]) as process:
        part = run / "checkpoints" / f".{LAST}.part"
        _until(lambda: (run / "checkpoints" / LAST).exists() and part.exists(), process)
        process.kill()
        process.wait()
    assert read_checkpoint(run / "checkpoints" / LAST)["global_step"] >= 1
    _finish("--resume", run)
    assert_same_end(whole, run)


def _finish(*arguments: str | Path) -> None:
    with started(*arguments) as process:
        _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error


def _until(seen: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not seen() and process.poll() is None:
        time.sleep(0.002)
    assert process.poll() is None
