"""Any number of processes and any kill give the same rows and the same saved answers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dense_evaluation.answers import GivenAnswers, write_set
from transnext_models.dense_data.find import open_validation
from transnext_models.dense_evaluation.engine import ImageAnswer, Round
from transnext_models.dense_evaluation.journal import Journal
from transnext_models.dense_evaluation.loading import loaded_images
from transnext_models.dense_evaluation.run import DenseOptions, evaluate_dense

pytest.importorskip("pycocotools")

PROGRAM = Path(__file__).with_name("answers.py")
COUNT = 37  # of images: two processes do not have equally many
LONGEST = 120
OF_TIME = ("seconds", "images_per_second")


def started(options: dict[str, Any], rank: int, count: int, port: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if count > 1:
        environment |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
        }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), json.dumps(options)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(count: int, options: dict[str, Any]) -> list[str]:
    """Run processes that find each other as torchrun would have told them; what they print."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [started(options, rank, count, port) for rank in range(count)]
    printed = [process.communicate(timeout=LONGEST) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, printed
    return [out for out, _ in printed]


def rows(file: Path) -> list[dict[str, Any]]:
    found = json.loads(file.with_suffix(".json").read_text())["rows"]
    for row in found:
        for name in OF_TIME:
            del row[name]
        del row["details"]["model_milliseconds"]
    return found


def asked(place: Path, data: Path, task: str) -> dict[str, Any]:
    saved = place / ("found.json" if task == "detect" else "maps")
    return {
        "task": task, "output": str(place / "rows.csv"), "data": str(data),
        "save_predictions": str(saved),
    }  # fmt: skip


def saved(place: Path) -> dict[str, bytes]:
    files = [place / "found.json", *(place / "maps").glob("*")]
    return {file.name: file.read_bytes() for file in files if file.exists()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data")
    write_set(place, COUNT)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_killed_then_ended_by_two_processes(task: str, data: Path, tmp_path: Path) -> None:
    """Each image counts once, and all is as if one process had done it at once."""
    options = asked(tmp_path, data, task)
    process = started({**options, "seconds": 0.05}, 0, 1, 0)
    assert process.stdout is not None
    assert [int(process.stdout.readline()) for _ in range(3)] == [0, 8, 8]
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=LONGEST)
    assert not (tmp_path / "rows.json").exists()
    (journal,) = (tmp_path / ".rows.csv.answers").iterdir()
    with open(journal, "ab") as file:  # a line that a kill cut off
        file.write(b'{"seconds": 1.0, "answers": [{"positi')
    first, second = run(2, options)
    counts = [int(line) for line in first.split()]
    assert 16 <= counts[0] < COUNT  # it goes on where it was
    assert (sum(counts), second) == (COUNT, "")
    assert not journal.parent.exists()

    whole = tmp_path / "whole"
    whole.mkdir()
    given = asked(whole, data, task)
    paths = {name: Path(given[name]) for name in ("output", "data", "save_predictions")}
    told = GivenAnswers(data, task, moved=2)
    evaluate_dense(DenseOptions(**{**given, **paths}, workers=0), load=lambda *_: told)
    assert rows(tmp_path / "rows.csv") == rows(whole / "rows.csv")
    assert {row["images"] for row in rows(tmp_path / "rows.csv")} == {COUNT}
    assert saved(tmp_path) == saved(whole)
    assert saved(whole)


def test_a_journal_is_read_back_exactly(data: Path, tmp_path: Path) -> None:
    for task in ("detect", "segment"):
        told = GivenAnswers(data, task, moved=2)
        annotated, _ = open_validation(data, task)
        images = loaded_images(annotated.images, range(COUNT), told.scales, told.num_classes, 0)
        answers = [ImageAnswer(image.position, 0.5, told.answer(image)) for image in images]
        file = tmp_path / "x.jsonl"
        journal = Journal(file, {"model": task})
        journal.take(Round(answers[:20], 2.0))
        journal.take(Round(answers[20:], 3.0))
        again = Journal(file, {"model": task})
        assert (again.seconds, len(again.answers)) == (5.0, COUNT)
        for answer in answers:
            ours, other = again.answers[answer.position].answer.found, answer.answer.found
            for name in ("right", "predicted") if task == "segment" else ("boxes", "scores"):
                np.testing.assert_array_equal(getattr(ours, name), getattr(other, name))
            if task == "detect":
                for mask, wanted in zip(ours.masks, other.masks, strict=True):
                    np.testing.assert_array_equal(mask.bitmap(), wanted.bitmap())
        content = file.read_bytes()
        file.write_bytes(content[:-7])  # cut off: the last round is gone, the first is kept
        assert sorted(Journal(file, {"model": task}).answers) == list(range(20))
        assert not Journal(file, {"model": "another"}).answers
        file.unlink()
