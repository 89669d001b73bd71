"""One process at a time trains into a folder, and whoever is killed lets go at once."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from training import short_runs
from training.short_runs import StopAfter
from transnext_models.training.run import RunStopped, train
from transnext_models.training.run_lock import LOCK_NAME, RunLock

# Holds the lock, with a child that has inherited all of its open files, as loading processes do.
_HOLDER = """
import os, sys, time
from pathlib import Path
from transnext_models.training.run_lock import RunLock
lock = RunLock()
lock.acquire(Path(sys.argv[1]))
lock.sign()
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(60)
"""


@contextmanager
def held(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process, with a child of its own, that trains in `folder`."""
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        yield holder, child
    finally:
        holder.kill()
        holder.wait()
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_a_run_in_use_is_refused_and_left_alone(tmp_path: Path, images: Path) -> None:
    run = short_runs.images(tmp_path, images)
    with pytest.raises(RunStopped):
        train(run, [StopAfter(2)])
    with held(tmp_path) as (holder, _):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(ValueError, match=f"in use by process {holder.pid} on .*wait for it"):
            train(dataclasses.replace(run, resume=tmp_path))
        with pytest.raises(ValueError, match=f"in use by process {holder.pid}"):
            train(run)
        after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert before == after
    train(dataclasses.replace(run, resume=tmp_path))


def test_kill_releases_the_lock_whatever_children_live(tmp_path: Path) -> None:
    with held(tmp_path) as (holder, child):
        with pytest.raises(ValueError, match="in use by process"):
            RunLock().acquire(tmp_path)
        holder.kill()
        holder.wait()
        os.kill(child, 0)  # it lives
        with RunLock() as lock:
            lock.acquire(tmp_path)


def test_two_runs_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    with RunLock() as lock:
        lock.acquire(tmp_path)
        lock.acquire(tmp_path)  # the same object: nothing happens
        errors: list[BaseException] = []

        def second() -> None:
            try:
                RunLock().acquire(tmp_path / ".." / tmp_path.name)
            except ValueError as error:
                errors.append(error)

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        assert len(errors) == 1
    with RunLock() as lock:
        lock.acquire(tmp_path)


def test_the_file_names_the_holder_while_it_is_held(tmp_path: Path) -> None:
    with RunLock() as lock:
        lock.acquire(tmp_path)
        assert (tmp_path / LOCK_NAME).read_bytes() == b""
    with RunLock() as lock:
        lock.acquire(tmp_path)
        lock.sign()
        assert str(os.getpid()) in _peek(tmp_path / LOCK_NAME)
    assert (tmp_path / LOCK_NAME).read_bytes() == b""


def _peek(path: Path) -> str:
    # Reading it here would release it: a record lock goes with any descriptor of its file.
    return subprocess.run(["cat", path], capture_output=True, text=True, check=True).stdout


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refused)
    with RunLock() as lock:
        lock.acquire(tmp_path)
    assert "cannot be locked (No locks available)" in capsys.readouterr().err
