"""Any number of processes, any batch size and any kill give the same rows."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.made_up_sets import paint_classes
from killed_ranks import finds_processes, restarted_by_torchrun
from transnext_models.evaluation.class_lists import indices_of_a

PROGRAM = Path(__file__).with_name("painted_run.py")
OF_TIME = ("seconds", "images_per_second")
LONGEST = 300


def command(place: Path, **options: Any) -> list[str]:
    named = {
        name: str(value) if isinstance(value, Path) else value for name, value in options.items()
    }
    return [sys.executable, str(PROGRAM), json.dumps({"output": str(place), **named})]


def run(processes: int, place: Path, **options: Any) -> None:
    """Run some processes that find each other as torchrun would have told them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        environment = dict(os.environ)
        if processes > 1:
            environment |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": str(port),
            }
        started.append(
            subprocess.Popen(command(place, **options), env=environment, stderr=subprocess.PIPE)
        )
    errors = [process.communicate(timeout=LONGEST)[1] for process in started]
    assert [process.returncode for process in started] == [0] * processes, errors


def table(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, but for what is a matter of time."""
    with file.open(newline="") as lines:
        return [
            {name: value for name, value in row.items() if name not in OF_TIME}
            for row in csv.DictReader(lines)
        ]


def documents(file: Path) -> list[dict[str, Any]]:
    rows = json.loads(file.with_suffix(".json").read_text())["rows"]
    for row in rows:
        for name in OF_TIME:
            del row[name]
    return rows


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """131 validation images, of which no 2 or 3 processes have equally many, and two sets more."""
    place = tmp_path_factory.mktemp("sets")
    paint_classes(place / "val", [*range(100), *indices_of_a()[-31:]], right=77)
    paint_classes(place / "a", indices_of_a()[-50:], right=20)
    paint_classes(place / "sketch", range(30), right=11)
    return {name: place / name for name in ("val", "a", "sketch")}


@pytest.fixture(scope="module")
def whole(sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("whole") / "results.csv"
    run(1, file, **asked(sets), save_predictions=file.with_suffix(".npz"))
    return file


def asked(sets: dict[str, Path]) -> dict[str, Any]:
    return {"imagenet": sets["val"], "a": sets["a"], "sketch": sets["sketch"], "sizes": [32, 48]}


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "batch_size"), [(1, 7), (2, 64), (3, 10)])
def test_processes_and_batch_sizes(
    tmp_path: Path, sets: dict[str, Path], whole: Path, processes: int, batch_size: int
) -> None:
    file = tmp_path / "results.csv"
    predictions = tmp_path / "predictions.npz"
    run(processes, file, **asked(sets), batch_size=batch_size, save_predictions=predictions)
    rows = table(file)
    assert rows == table(whole)
    assert documents(file) == documents(whole)
    assert [(row["set"], row["images"]) for row in rows[:4]] == [
        ("imagenet", "131"), ("imagenet-a-clean", rows[1]["images"]), ("imagenet-a", "50"),
        ("sketch", "30"),
    ]  # fmt: skip
    assert rows[0]["top1"] == str(round(100 * 77 / 131, 4))
    with np.load(predictions) as ours, np.load(whole.with_suffix(".npz")) as others:
        assert set(ours.files) == set(others.files)
        for name in ours.files:
            if ours[name].dtype.kind == "f":
                np.testing.assert_allclose(ours[name], others[name], rtol=1e-12)
            else:
                np.testing.assert_array_equal(ours[name], others[name])


@pytest.mark.slow
def test_more_processes_than_images(tmp_path: Path) -> None:
    paint_classes(tmp_path / "val", range(2), right=1)
    run(3, tmp_path / "results.csv", imagenet=tmp_path / "val")
    (row,) = table(tmp_path / "results.csv")
    assert (row["images"], row["top1"]) == ("2", "50.0")


@pytest.mark.slow
@pytest.mark.parametrize("kills", [[1], [3, 6]])
def test_killed_and_run_again(
    tmp_path: Path, sets: dict[str, Path], whole: Path, kills: Sequence[int]
) -> None:
    """kill -9 after so many rows, in the middle of the next one."""
    file = tmp_path / "results.csv"
    options = {**asked(sets), "save_predictions": tmp_path / "results.npz"}
    before = 0
    for rows in kills:
        process = subprocess.Popen(
            command(file, **options, batch_size=8, seconds=0.01),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for _ in range(rows - before):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=LONGEST)
        before = len(table(file))
        assert rows <= before < 8
    run(1, file, **options)
    assert table(file) == table(whole)
    assert documents(file) == documents(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "results.csv", "results.json", "results.md", "results.npz",
    ]  # fmt: skip
    with np.load(tmp_path / "results.npz") as ours, np.load(whole.with_suffix(".npz")) as others:
        assert set(ours.files) == set(others.files)


@pytest.mark.slow
@pytest.mark.long
@finds_processes
def test_torchrun_starts_an_evaluation_again_that_lost_a_process(
    tmp_path: Path, sets: dict[str, Path], whole: Path
) -> None:
    """It goes on at the first missing row, and every image counts once."""
    file = tmp_path / "results.csv"
    options = {**asked(sets), "save_predictions": tmp_path / "results.npz"}
    program = command(file, **options, batch_size=4, seconds=0.05)[1:]
    printed = restarted_by_torchrun(program, lambda: file.exists() and len(table(file)) >= 2)
    assert table(file) == table(whole)
    assert documents(file) == documents(whole)
    assert len(printed.split()) <= 8  # no row is measured twice
    with np.load(tmp_path / "results.npz") as ours, np.load(whole.with_suffix(".npz")) as others:
        assert set(ours.files) == set(others.files)


def test_predictions_are_enough_to_compute_everything_again(whole: Path) -> None:
    rows = {(row["set"], row["img_size"]): row for row in documents(whole)}
    with np.load(whole.with_suffix(".npz")) as saved:
        names = {name.rpartition("/")[0] for name in saved.files}
        assert len(names) == 8
        for name in names:
            model, image_set, size, mode, precision = name.split("/")
            assert (model, mode, precision) == ("painted.v1-00000000", "normal", "float32")
            row = rows[image_set, int(size)]
            right = saved[f"{name}/top5"] == saved[f"{name}/label"][:, None]
            assert int(right[:, 0].sum()) == row["details"]["correct1"]
            assert int(right.any(1).sum()) == row["details"]["correct5"]
            loss = -np.log(saved[f"{name}/label_probability"]).mean()
            assert loss == pytest.approx(row["loss"], abs=1e-4)
            assert all(str(path).endswith(".png") for path in saved[f"{name}/path"])


def test_nothing_is_measured_twice(sets: dict[str, Path], whole: Path) -> None:
    """The same command again finds every row there, and changes no file."""
    before = {path: path.read_bytes() for path in whole.parent.iterdir()}
    run(1, whole, **asked(sets), save_predictions=whole.with_suffix(".npz"), seconds=60)
    assert {path: path.read_bytes() for path in whole.parent.iterdir()} == before
