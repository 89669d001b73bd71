"""`--profile`: what it writes, and that the run does not notice."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
from pathlib import Path

import pytest

from recorded_work import RecordedWork
from training import short_runs
from training.short_runs import CrashAfter, assert_same_end, digits
from training.test_training_run import transnext_train
from transnext_models.training import parts, profiling, steps
from transnext_models.training.options import RunOptions, check_options
from transnext_models.training.profiling import Shares
from transnext_models.training.run import train
from transnext_models.training.speed import Speed


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs of tests are short."""
    monkeypatch.setattr(profiling, "_SETTLED", 1)
    monkeypatch.setattr(profiling, "_BATCHES", 2)


def said(text: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith("profile: ")]
    return line


def test_a_run_with_a_profile_is_the_same(
    options: RunOptions, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(dataclasses.replace(options, profile=True))
    assert_same_end(whole, options.output)
    folder = options.output / "profile"
    line = said(capsys.readouterr().err)
    assert line.endswith(f"operators and trace are in {folder}")
    assert re.search(
        r"2 batches of [\d.]+ ms each: waiting for the loader [\d.]+%, step [\d.]+%, rest", line
    )
    shares = [float(share) for share in re.findall(r"([\d.]+)%", line)]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert min(shares) >= 0
    table = (folder / "operators.txt").read_text()
    assert "2 batches of" in table.splitlines()[0]
    assert "aten::" in table
    assert "Self CPU time total" in table
    trace = json.loads(gzip.decompress((folder / "trace.json.gz").read_bytes()))
    names = [event.get("name", "") for event in trace["traceEvents"]]
    assert sum(name.startswith("Optimizer.step") for name in names) == 2
    assert any("DataLoader" in name for name in names)


def test_whole_optimiser_steps_are_profiled(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = short_runs.images(
        tmp_path / "run", images, batch_size=2, accumulate=2, epochs=1, profile=True
    )
    train(options)
    assert "2 batches of" in said(capsys.readouterr().err)
    trace = json.loads(gzip.decompress((options.output / "profile" / "trace.json.gz").read_bytes()))
    names = [event.get("name", "") for event in trace["traceEvents"]]
    assert sum(name.startswith("Optimizer.step") for name in names) == 1


def test_a_captured_step_is_profiled(
    tmp_path: Path,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(parts, "has_graphs", lambda device: True)
    monkeypatch.setattr(steps, "CudaGraphs", RecordedWork)
    monkeypatch.setattr(profiling, "_SETTLED", 5)  # four steps until all is recorded
    options = short_runs.images(
        tmp_path / "run", images, cuda_graphs=True, batch_size=2, profile=True
    )
    train(options)
    assert "2 batches of" in said(capsys.readouterr().err)
    assert "aten::" in (options.output / "profile" / "operators.txt").read_text()


def test_too_short_a_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = digits(tmp_path / "run", profile=True, limit_train_batches=1)
    train(options)
    assert "nothing was profiled" in said(capsys.readouterr().err)
    assert not (options.output / "profile").exists()


def test_a_profile_that_cannot_be_written_ends_no_run(
    options: RunOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    options.output.mkdir()
    (options.output / "profile").write_text("in the way")
    train(dataclasses.replace(options, profile=True))
    assert "not written: " in said(capsys.readouterr().err)
    assert (options.output / "result.json").exists()


def test_neither_resume_nor_config_profile_again(options: RunOptions, tmp_path: Path) -> None:
    with pytest.raises(short_runs.Crash):
        train(dataclasses.replace(options, profile=True), [CrashAfter(6)])
    for arguments in (
        ("--config", options.output / "config.json", "--output", tmp_path / "again"),
        ("--resume", options.output),
    ):
        result = transnext_train(*map(str, arguments))
        assert result.exit_code == 0, result.output
        assert "profile: " not in result.stderr


def test_a_dry_run_has_none(options: RunOptions) -> None:
    both = dataclasses.replace(options, profile=True, dry_run=True)
    with pytest.raises(ValueError, match="--profile: got it together with --dry-run"):
        check_options(both)


def test_shares_with_a_device() -> None:
    shares = Shares(batches=10, total=2.0, waiting=0.2, step=1.7, device=1.5)
    assert str(shares) == (
        "10 batches of 200.0 ms each: waiting for the loader 10.0%, step 85.0%, rest 5.0%; "
        "device busy 75.0%"
    )


def test_time_is_counted_by_what_it_was_spent_on() -> None:
    times = iter([0.0, 1.0, 2.0, 5.0, 6.0, 13.0])
    speed = Speed(1, clock=lambda: next(times))
    speed.begin_epoch()
    with speed.waiting():
        pass
    with speed.stepping():
        pass
    assert speed.spent == (3.0, 7.0)
