"""Open a weights file once, and only if it is a regular file; all reading goes through here."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import CheckpointError, file_error

_KINDS = (
    (stat.S_ISDIR, "a folder; give one weights file (.pth or .safetensors)"),
    (stat.S_ISFIFO, "a pipe, which can be read only once; save it as a file first"),
    (stat.S_ISSOCK, "a socket, not a file"),
    (stat.S_ISCHR, "a device, not a file"),
    (stat.S_ISBLK, "a device, not a file"),
)
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file open for reading.

    It is read, never mapped: a mapped file that someone shortens ends the process that reads it.

    Attributes
    ----------
    path, stream, size : Path, io.BufferedReader, int
        Its name, itself, and how many bytes it had when it was opened.
    """

    path: Path
    stream: io.BufferedReader
    size: int

    def bytes_at(self, start: int, length: int) -> bytearray:
        """Return exactly these bytes; the file must have had them when it was opened.

        Raises
        ------
        CheckpointError
            If they are not there (any more).
        """
        if start < 0 or length < 0 or start + length > self.size:
            raise file_error(self.path, "damaged or cut short (it ends inside its tensors)")
        data = bytearray(length)
        view = memoryview(data)
        self.stream.seek(start)
        done = 0
        while done < length:
            count = self.stream.readinto(view[done : done + _CHUNK])
            if not count:
                raise file_error(self.path, "it became shorter while it was read")
            done += count
        return data


@contextmanager
def opened(path: Path) -> Iterator[OpenFile]:
    """Open `path`, and turn whatever goes wrong while it is read into a `CheckpointError`."""
    stream = _open(path)
    try:
        with stream:
            yield OpenFile(path, stream, os.fstat(stream.fileno()).st_size)
    except CheckpointError:
        raise
    except MemoryError as error:
        raise file_error(path, "there is not enough memory to read it") from error
    # A file made to do harm finds the one error that nobody thought of. `zipfile` alone has
    # BadZipFile, ValueError, EOFError, OSError, OverflowError, RuntimeError and struct.error.
    except Exception as error:
        text = str(error) or type(error).__name__
        raise file_error(path, f"damaged or cut short ({text})") from error


def _open(path: Path) -> io.BufferedReader:
    try:
        stream = open(path, "rb", opener=_opener)  # noqa: SIM115 -- closed by `opened`
    # ValueError: a name with a zero byte, or one that cannot be encoded.
    except (OSError, ValueError) as error:
        # Some systems refuse to open a folder or a socket at all.
        reason = _unusable(path) or f"cannot be read ({_reason(error)})"
        raise file_error(path, reason) from error
    mode = os.fstat(stream.fileno()).st_mode
    if not stat.S_ISREG(mode):
        stream.close()
        raise file_error(path, _kind(mode) or "not an ordinary file")
    return stream


def _opener(path: str, flags: int) -> int:
    # Opening a pipe would wait for its other end.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _unusable(path: Path) -> str | None:
    try:
        return _kind(os.stat(path).st_mode)
    except (OSError, ValueError):
        return None


def _kind(mode: int) -> str | None:
    return next((text for test, text in _KINDS if test(mode)), None)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
