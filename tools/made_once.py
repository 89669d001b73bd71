"""Files and folders that processes share, made by the one that asks first."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path


def made_once(target: Path, make: Callable[[Path], object]) -> Path:
    """Return a file or a folder, which is made if it is not there.

    Processes and threads that ask at the same time wait for the one that makes it, so that two
    workers of pytest do not compile the same source side by side. A process that dies leaves the
    file unmade.

    Parameters
    ----------
    target
        The file or folder. What it is in is made too; beside it stays an empty file, the lock.
    make
        Writes it under the name that it is given.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(f"{target.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        part = target.with_name(f"{target.name}.part")
        try:
            if not target.exists():
                make(part)
                part.replace(target)
        finally:
            if part.is_dir():
                shutil.rmtree(part)
            part.unlink(missing_ok=True)
            fcntl.flock(lock, fcntl.LOCK_UN)  # also for a child that was forked meanwhile
    return target
