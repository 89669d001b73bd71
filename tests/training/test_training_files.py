"""Checkpoints and the other files of a run are whole or as they were, and damage is noticed."""

from __future__ import annotations

import errno
import io
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transnext_models import create_model
from transnext_models.checkpoints import read_state_dict, read_weights
from transnext_models.training import durable
from transnext_models.training.checkpoint_files import (
    BEST,
    LAST,
    PREVIOUS,
    CheckpointDamaged,
    CheckpointFolder,
    read_checkpoint,
    verify_checkpoint,
    write_checkpoint,
)
from transnext_models.training.durable import RunFileError, write_text, written_durably
from transnext_models.training.export import export_half, export_weights


def content(number: int = 0, size: int = 100) -> dict[str, Any]:
    weights = torch.full((size,), 1.0 * number)
    return {"format": 1, "training": {"number": number}, "weights": weights}


def numbers(folder: Path) -> list[int]:
    """Of the newest checkpoint and the one before."""
    return [read_checkpoint(folder / name)["training"]["number"] for name in (LAST, PREVIOUS)]


# -- whole or as it was ---------------------------------------------------------------------------


def test_a_file_appears_whole_beside_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with written_durably(target) as file:
        file.write(b"one")
        assert not target.exists()
        # Beside its target: on the same file system, whatever TMPDIR is.
        assert [path.parent for path in tmp_path.iterdir()] == [tmp_path]
    with pytest.raises(ZeroDivisionError), written_durably(target) as file:
        file.write(bytes([1 // 0]))
    assert target.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [target]


def test_file_and_folder_reach_the_disk_before_and_after_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def traced(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            kind = "folder" if name == "fsync" and _is_folder(arguments[0]) else ""
            calls.append(f"{name} {kind}".strip())
            return function(*arguments)

        return call

    monkeypatch.setattr(os, "fsync", traced("fsync", os.fsync))
    monkeypatch.setattr(os, "replace", traced("replace", os.replace))
    write_checkpoint(tmp_path / LAST, content())
    assert calls == ["fsync", "replace", "fsync folder"]


def _is_folder(handle: int) -> bool:
    return stat.S_ISDIR(os.fstat(handle).st_mode)


def test_text_is_not_written_again(tmp_path: Path) -> None:
    target = tmp_path / "metrics.csv"
    write_text(target, "ä\n")
    before = target.stat().st_mtime_ns, target.stat().st_ino
    write_text(target, "ä\n")
    assert (target.stat().st_mtime_ns, target.stat().st_ino) == before
    write_text(target, "ö\n")
    assert target.read_text(encoding="utf-8") == "ö\n"


class FullDisk:
    """Files opened for writing take so many bytes altogether, then the disk is full.

    The first ``passed`` files do not count: their sizes differ between two runs, by their times.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int, passed: int = 0) -> None:
        self._free = free
        self._passed = passed
        self.files: list[tuple[str, int]] = []  # names and bytes, in the order of writing
        original = open

        def limited(path: Path, mode: str) -> Any:
            file = original(path, mode)
            if mode != "wb":
                return file
            self.files.append((path.name.removeprefix(".").removesuffix(".part"), 0))
            return _Limited(file, self)

        monkeypatch.setattr(durable, "open", limited, raising=False)

    def fill(self, size: int) -> None:
        name, before = self.files[-1]
        self.files[-1] = (name, before + size)
        if len(self.files) > self._passed:
            self._free -= size
        if self._free < 0:
            raise OSError(errno.ENOSPC, "No space left on device")


class _Limited(io.BufferedIOBase):
    def __init__(self, file: Any, disk: FullDisk) -> None:
        self._file = file
        self._disk = disk

    def write(self, data: Any) -> int:
        self._disk.fill(len(data))
        written: int = self._file.write(data)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def seek(self, *arguments: int) -> int:
        position: int = self._file.seek(*arguments)
        return position

    def flush(self) -> None:
        self._file.flush()

    def fileno(self) -> int:
        number: int = self._file.fileno()
        return number

    def close(self) -> None:
        self._file.close()


def test_a_full_disk_leaves_the_checkpoints_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(content(1))
    folder.save(content(2))
    size = (tmp_path / LAST).stat().st_size
    for free in [0, 1, 100, size // 2, size - 120, size - 100, size - 1]:
        with monkeypatch.context() as patch:
            FullDisk(patch, free)
            with pytest.raises(RunFileError, match=r"last\.ckpt: cannot be written \(No space"):
                folder.save(content(3))
        assert numbers(tmp_path) == [2, 1]
        assert {path.name for path in tmp_path.iterdir()} == {LAST, PREVIOUS}
    folder.save(content(4))
    assert numbers(tmp_path) == [4, 2]


def test_a_file_size_limit_is_an_error_like_any_other(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    write_checkpoint(tmp_path / LAST, content(1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(RunFileError, match=r"last\.ckpt: cannot be written \(File too large\)"):
            write_checkpoint(tmp_path / LAST, content(2, size=100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read_checkpoint(tmp_path / LAST)["training"]["number"] == 1
    assert list(tmp_path.iterdir()) == [tmp_path / LAST]


_ENDLESS = """
import sys, torch
from pathlib import Path
from transnext_models.training.checkpoint_files import CheckpointFolder
folder, number = CheckpointFolder(Path(sys.argv[1])), 0
while True:
    number += 1
    weights = torch.full((400_000,), 1.0 * number)
    folder.save({"format": 1, "training": {"number": number}, "weights": weights})
    print(number, flush=True)
"""


@pytest.mark.slow
def test_kill_in_the_middle_of_writing(tmp_path: Path) -> None:
    """After kill -9 the newest checkpoint that was reported is there, or one that is newer."""
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        writer = subprocess.Popen(
            [sys.executable, "-c", _ENDLESS, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(3):
            writer.stdout.readline()
        time.sleep(0.007 * attempt)
        writer.send_signal(signal.SIGKILL)
        reported = max([3, *map(int, writer.stdout.read().split())])
        writer.stdout.close()
        writer.wait()
        path, faults = CheckpointFolder(folder).newest()
        assert path is not None
        assert not faults
        number = read_checkpoint(path)["training"]["number"]
        assert reported <= number <= reported + 1
        assert read_checkpoint(folder / PREVIOUS)["training"]["number"] >= reported - 1


# -- damage ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sealed") / LAST
    write_checkpoint(path, content(1))
    return path.read_bytes()


@given(data=st.data())
@settings(max_examples=200)
def test_any_damage_is_noticed(
    sealed: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / LAST
    kind = data.draw(st.sampled_from(["flip", "cut", "grow", "swap", "zero"]))
    damaged = bytearray(sealed)
    place = data.draw(st.integers(0, len(sealed) - 1))
    if kind == "flip":
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del damaged[place:]
    elif kind == "grow":
        damaged[place:place] = data.draw(st.binary(min_size=1, max_size=200))
    elif kind == "swap":
        del damaged[place : place + data.draw(st.integers(1, 500))]
    else:
        end = min(len(sealed), place + data.draw(st.integers(1, 4096)))
        damaged[place:end] = bytes(end - place)
    path.write_bytes(damaged)
    if damaged == sealed:
        verify_checkpoint(path)
        return
    with pytest.raises(CheckpointDamaged, match=r"last\.ckpt: \S+"):
        verify_checkpoint(path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "damaged: an empty file"),
        (
            lambda path: path.write_bytes(b"hello world" * 100),
            "not a checkpoint: it starts with b'hell'",
        ),
        (lambda path: torch.save({"state_dict": {}}, path), "holds no training state"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: None, r"cannot be read \(No such file"),
        (lambda path: write_checkpoint(path, {"format": 1}), "holds no training state"),
        (
            lambda path: write_checkpoint(path, {"format": 2, "training": {}}),
            "its layout is number 2, and this version of transnext reads number 1",
        ),
        (lambda path: write_checkpoint(path, {"training": print}), "cannot be read"),
    ],
)
def test_what_is_no_checkpoint_is_said(
    tmp_path: Path, write: Callable[[Path], Any], message: str
) -> None:
    write(tmp_path / LAST)
    with pytest.raises(CheckpointDamaged, match=rf"last\.ckpt: {message}"):
        read_checkpoint(tmp_path / LAST)


def test_the_newest_whole_one_is_found(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    assert folder.newest() == (None, [])
    assert not folder.has_begun
    folder.save(content(1))
    assert folder.newest() == (tmp_path / LAST, [])
    folder.save(content(2))
    (tmp_path / LAST).write_bytes(b"PK")
    path, faults = CheckpointFolder(tmp_path).newest()
    assert path == tmp_path / PREVIOUS
    assert len(faults) == 1
    assert str(tmp_path / LAST) in faults[0]
    (tmp_path / PREVIOUS).write_bytes(b"")
    assert folder.has_begun
    with pytest.raises(CheckpointDamaged, match=r"last\.ckpt: .*; .*previous\.ckpt: "):
        folder.newest()


def test_a_file_system_without_links_still_keeps_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    folder = CheckpointFolder(tmp_path)
    for number in range(4):
        folder.save(content(number))
    assert numbers(tmp_path) == [3, 2]


def test_best_does_not_share_the_damage_of_last(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(content(1))
    folder.keep_best()
    with open(tmp_path / LAST, "r+b") as file:
        file.write(b"damage")
    assert read_checkpoint(tmp_path / BEST)["training"]["number"] == 1


# -- what others read -----------------------------------------------------------------------------


def test_checkpoints_are_plain_files_of_torch(tmp_path: Path) -> None:
    """A process that has imported nothing but torch reads them, as data; and so do we."""
    model = create_model("transnext_pico")
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    path = tmp_path / LAST
    write_checkpoint(path, {"format": 1, "training": {}, "state_dict": state, "epoch": 4})
    code = "import sys, torch; print(torch.load(sys.argv[1], weights_only=True)['epoch'])"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.stdout == "4\n", done.stderr
    read = read_weights(path)
    assert read.architecture is not None
    assert all(
        torch.equal(value, read.state_dict[name]) for name, value in model.state_dict().items()
    )
    mapped = torch.load(path, weights_only=True, mmap=True)
    assert torch.equal(mapped["state_dict"]["model.head.bias"], model.head.bias)


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    state = create_model("transnext_pico").state_dict()
    metadata = {name: name for name in ["model", "recipe", "num_classes", "img_size"]}
    files = [tmp_path / f"{number}.safetensors" for number in range(5)]
    for file in files:
        export_weights(file, state, metadata)
        export_half(file, tmp_path / "half.safetensors")
    assert len({file.read_bytes() for file in files}) == 1
    half = read_state_dict(tmp_path / "half.safetensors")
    assert all(torch.equal(half[name], state[name].half()) for name in state)
    assert read_weights(files[0]).metadata["recipe"] == "recipe"


def test_weights_too_large_for_half_precision_are_named(tmp_path: Path) -> None:
    state = create_model("transnext_pico").state_dict()
    state["head.bias"] = torch.full_like(state["head.bias"], 1e6)
    export_weights(tmp_path / "model.safetensors", state, {})
    with pytest.raises(ValueError, match=r"'head\.bias' has values too large.*--no-float16"):
        export_half(tmp_path / "model.safetensors", tmp_path / "half.safetensors")
    assert not (tmp_path / "half.safetensors").exists()
