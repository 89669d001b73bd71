"""What one sees of a run: speed and end with and without a terminal, TensorBoard, W&B."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from training.short_runs import StopAfter, digits, metrics, resumed
from transnext_models.training import loggers, progress
from transnext_models.training.history import COLUMNS
from transnext_models.training.run import RunStopped, train
from transnext_models.training.speed import Speed, duration


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_speed_and_end_follow_from_the_batches_done() -> None:
    clock = _Clock()
    speed = Speed(images_per_batch=32, clock=clock)
    speed.begin(left=200)
    assert speed.seconds_left is None
    speed.begin_epoch()
    assert speed.images_per_second == 0
    for _ in range(100):
        clock.now += 0.5
        speed.batch_done()
    assert speed.images_per_second == pytest.approx(64)
    assert speed.seconds_left == pytest.approx(50)
    clock.now += 30  # a validation, which counts for the run and not for the training
    assert speed.seconds_left == pytest.approx(80)
    speed.begin_epoch()
    for _ in range(10):
        clock.now += 1
        speed.batch_done()
    assert speed.epoch_images_per_second == pytest.approx(32)
    assert speed.images_per_second == pytest.approx(32)
    assert speed.seconds_left == pytest.approx(90 / 110 * 90)


def test_waiting_for_images_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    clock = _Clock()
    speed = Speed(32, clock)
    speed.begin(10)
    speed.begin_epoch()
    for _ in range(10):
        with speed.waiting():
            clock.now += 1
        clock.now += 3
        speed.batch_done()
    assert speed.waited == pytest.approx((40, 0.25))
    progress.warn_of_waiting(3, 4, *speed.waited)
    assert "epoch 3: 25% of the time was spent on waiting for images" in capsys.readouterr().err
    progress.warn_of_waiting(3, 4, 40, 0.1)
    progress.warn_of_waiting(3, 4, 4, 0.9)
    assert capsys.readouterr().err == ""
    speed.begin_epoch()
    clock.now += 1
    assert speed.waited == pytest.approx((1, 0))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"),
        (0, "0:00"),
        (59.6, "1:00"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (86400, "1 day 0:00:00"),
        (200000, "2 days 7:33:20"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_now_and_then_where_there_is_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(digits(tmp_path / "quick"))
    assert "batch" not in capsys.readouterr().err
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    train(digits(tmp_path / "shown"))
    said = capsys.readouterr().err.splitlines()
    lines = [line for line in said if "batch" in line]
    assert [line.partition(",")[0] for line in lines] == [
        f"epoch {epoch}: batch {batch} of 2 ({50 * batch}%)"
        for epoch in range(3)
        for batch in (1, 2)
    ]
    assert all("images/s, run ends in 0:0" in line for line in lines)
    ends = [line for line in said if "train_loss" in line]
    assert len(ends) == 3
    assert all("images_per_second" in line for line in ends)
    assert ends[-1].endswith("run ends in 0:00")


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    clock = _Clock()
    speed = Speed(64, clock)
    speed.begin(4)
    speed.begin_epoch()
    with progress.progress_shown("epoch 7", 0, 2, speed, shown=True) as advance:
        for _ in range(2):
            clock.now += 0.5
            speed.batch_done()
            advance()
    shown = terminal.getvalue()
    assert "epoch 7" in shown
    assert "128 images/s, run ends in 0:01" in shown


def test_metrics_have_the_speed(tmp_path: Path) -> None:
    train(digits(tmp_path))
    assert list(metrics(tmp_path)[0]) == list(COLUMNS)
    assert all(float(row["images_per_second"]) > 0 for row in metrics(tmp_path))


# -- loggers --------------------------------------------------------------------------------------


def _events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars in event files: steps and values by name."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            size = int.from_bytes(content[place : place + 8], "little")
            event = event_pb2.Event.FromString(content[place + 12 : place + 12 + size])
            place += 16 + size
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_has_every_epoch_once_also_after_a_resume(tmp_path: Path) -> None:
    with pytest.raises(RunStopped):
        train(digits(tmp_path), [StopAfter(3)])
    train(digits(tmp_path, resume=tmp_path))
    rows = metrics(tmp_path)
    events = _events(tmp_path / "tensorboard")
    for name in ("lr", "train_loss"):
        expected = [(int(row["epoch"]), pytest.approx(float(row[name]))) for row in rows]
        assert events[name] == expected
    assert [step for step, _ in events["val_top1"]] == [2]


def test_what_is_not_the_run_s_is_left_alone(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    others = tmp_path / "tensorboard" / "events.out.tfevents.1"
    others.parent.mkdir()
    others.write_bytes(b"somebody else's")
    train(digits(tmp_path))
    assert others.read_bytes() == b"somebody else's"


def test_without_tensorboard_a_run_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    train(digits(tmp_path))
    assert not (tmp_path / "tensorboard").exists()
    assert "tensorboard" not in capsys.readouterr().err


def test_a_log_that_fails_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboardX")

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(loggers.TensorBoard, "write", full)
    train(digits(tmp_path))
    said = capsys.readouterr().err
    assert said.count("tensorboard: no longer written: No space left on device") == 1
    assert (tmp_path / "result.json").exists()


class _Wandb(ModuleType):
    """Stands in for the package: notes what it is given."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **arguments: Any) -> _Wandb:
        self.started.append(arguments)
        return self

    def log(self, row: dict[str, float], step: int) -> None:
        self.logged.append((step, row))

    def finish(self) -> None:
        self.finished += 1


def test_wandb_gets_the_rows_of_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = _Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    find = loggers.importlib.util.find_spec
    monkeypatch.setattr(
        loggers.importlib.util, "find_spec", lambda name: name == "wandb" or find(name)
    )
    options = digits(tmp_path / "mine", wandb="project")
    with pytest.raises(RunStopped):
        train(options, [StopAfter(3)])
    train(resumed(options))
    first, second = wandb.started
    assert first["id"] == second["id"]
    assert (first["project"], first["name"], first["resume"]) == ("project", "mine", "allow")
    assert first["config"]["recipe"]["name"] == "digits"
    assert [step for step, _ in wandb.logged] == [0, 1, 2]
    assert "val_top1" in wandb.logged[-1][1]
    assert wandb.finished == 1


def test_wandb_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="--wandb needs the package wandb: pip install wandb"):
        train(digits(tmp_path / "run", wandb="project"))
    assert not (tmp_path / "run").exists()
