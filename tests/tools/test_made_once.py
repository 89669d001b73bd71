"""Files that processes share are made once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from tools.made_once import made_once


def make(folder: Path) -> str:
    def write(part: Path) -> None:
        with open(folder / "made", "a") as log:
            log.write("once ")
        part.write_text("compiled")

    return made_once(folder / "below" / "file", write).read_text()


def test_one_of_many_threads_makes_it(tmp_path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(make, [tmp_path] * 32)) == {"compiled"}
    assert (tmp_path / "made").read_text() == "once "


def test_processes_wait_for_the_one_that_makes_it(tmp_path) -> None:
    def slowly(part: Path) -> None:
        waiting.start()
        waiting.join(0.3)  # it cannot end before this has
        part.write_text("by the first")

    waiting = get_context("fork").Process(target=make, args=(tmp_path,))
    assert made_once(tmp_path / "below" / "file", slowly).read_text() == "by the first"
    waiting.join(10)
    assert waiting.exitcode == 0
    assert not (tmp_path / "made").exists()


def test_what_fails_leaves_nothing_and_is_tried_again(tmp_path) -> None:
    def fail(part: Path) -> None:
        part.write_text("half")
        raise RuntimeError("no compiler")

    with pytest.raises(RuntimeError, match="no compiler"):
        made_once(tmp_path / "below" / "file", fail)
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["file.lock"]
    assert make(tmp_path) == "compiled"


def test_a_folder_is_made_once_and_whole(tmp_path) -> None:
    def write(part: Path) -> None:
        part.mkdir()
        (part / "first").write_text("half")
        if not failed:
            failed.append(part)
            raise RuntimeError("the disk is full")
        (part / "second").write_text("whole")

    failed: list[Path] = []
    with pytest.raises(RuntimeError, match="the disk is full"):
        made_once(tmp_path / "below" / "folder", write)
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["folder.lock"]
    folder = made_once(tmp_path / "below" / "folder", write)
    assert made_once(folder, write) == folder
    assert sorted(path.name for path in folder.iterdir()) == ["first", "second"]
