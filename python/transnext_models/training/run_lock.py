"""One process trains into a folder at a time.

The lock is a POSIX record lock on the empty file `run.lock`. The kernel releases it with the
process, however that ends; loading processes, which a killed run leaves behind for some seconds, do
not inherit it (as they would a `flock`); and NFS servers know it. A file system without such locks
(some parallel ones are mounted so) is said and used unlocked.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import threading
from pathlib import Path

from .durable import RunFileError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK_NAME", "RunLock"]

LOCK_NAME = "run.lock"
_TAKEN = (errno.EACCES, errno.EAGAIN)

# A record lock belongs to the process: a second one in the same process would be granted.
_held: set[str] = set()
_held_guard = threading.Lock()


class RunLock:
    """The right to write into the folder of a run.

    `release`, `with`, or the end of the process release it.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        self._path = ""

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self, folder: Path) -> None:
        """Take the lock of `folder`, which exists; nothing where this object has it already.

        Raises
        ------
        ValueError
            Another process trains there, or another thread of this one.
        RunFileError
            The lock file cannot be made.
        """
        if self._file is not None:
            return
        path = os.path.join(os.path.realpath(folder), LOCK_NAME)
        with _held_guard:
            if path in _held:
                raise _in_use(folder, "")
            self._file = _locked(path, folder)
            self._path = path
            _held.add(path)

    def sign(self) -> None:
        """Write who holds the lock into its file, for the message to whoever comes second.

        The file is emptied again at the end.
        """
        self._note(f"process {os.getpid()} on {socket.gethostname()}")

    def release(self) -> None:
        """Give the lock up; the empty file stays."""
        if self._file is None:
            return
        self._note("")
        with _held_guard:
            os.close(self._file)
            self._file = None
            _held.discard(self._path)

    def _note(self, holder: str) -> None:
        # A full disk must not stop a run for the sake of a message.
        with contextlib.suppress(OSError):
            assert self._file is not None
            if os.fstat(self._file).st_size or holder:
                os.ftruncate(self._file, 0)
                os.lseek(self._file, 0, os.SEEK_SET)
                os.write(self._file, holder.encode())


def _locked(path: str, folder: Path) -> int:
    """Open the file `path` and lock it; its descriptor."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    except OSError as error:
        raise RunFileError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        if fcntl is None:
            raise OSError(errno.ENOTSUP, "not a system with record locks")
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            holder = os.read(file, 200).decode(errors="replace")
            os.close(file)
            raise _in_use(folder, holder) from None
        print(
            f"{folder} cannot be locked ({error.strerror}): see to it that no other process "
            "trains there",
            file=sys.stderr,
        )
    return file


def _in_use(folder: Path, holder: str) -> ValueError:
    return ValueError(
        f"{folder}: in use by {holder or 'another process'}, which trains there: wait for it, stop "
        "it, or name another folder"
    )
