"""Images that come through a pipe, a terminal's redirection or an object that reads.

They are copied until they end, to memory or, if large, to a temporary file, because decoders go
back and forth. Waiting can be given up from another thread.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import select
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from .errors import Unreadable
from .forks import Lock
from .memory import DECODING_BYTES

MOST_STREAM_BYTES = DECODING_BYTES
STANDARD_INPUT = "-"
WRITER_SECONDS = 10.0  # within which someone must open a named pipe to write
_IN_MEMORY_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 16
_LOOK_SECONDS = 0.1  # how often a wait looks whether it was given up
_DESCRIPTOR = re.compile(r"/dev/fd/(\d+)|/proc/self/fd/(\d+)")

# Objects of the caller are read one at a time: one may be given twice.
_reading = Lock()


def descriptor_of(name: str) -> int | None:
    """Return the number of the open file that `name` stands for, None if it is the name of a file.

    Such names are ``-``, ``/dev/stdin`` and ``/dev/fd/3``.
    """
    if name in (STANDARD_INPUT, "/dev/stdin"):
        return 0
    named = _DESCRIPTOR.fullmatch(name)
    return int(named[1] or named[2]) if named else None


def read_descriptor(descriptor: int, stop: threading.Event) -> BinaryIO:
    """Return what comes through an open file, from where it stands, as a seekable file.

    Raises
    ------
    Unreadable, OSError
        If nothing comes, or too much, or `stop` was set.
    """
    if descriptor == 0 and (given := _standard_input()) is not None:
        return read_object(given, stop)
    copy = os.dup(descriptor)
    try:
        if os.isatty(copy):
            raise Unreadable("a terminal, not an image; give it a file or a pipe")
        return _copy(lambda: _next_bytes(copy, stop))
    finally:
        os.close(copy)


def _standard_input() -> Any:
    """Return the standard input of this process if it is an object without a descriptor."""
    if sys.stdin is None:
        raise Unreadable("standard input is closed")
    stream = getattr(sys.stdin, "buffer", sys.stdin)
    try:
        return None if stream.fileno() == 0 else stream
    except (OSError, ValueError, AttributeError):
        return stream


def read_pipe(descriptor: int, stop: threading.Event) -> BinaryIO:
    """Return what comes through a pipe with a name, opened without blocking, as a seekable file.

    Raises
    ------
    Unreadable, OSError
        As `read_descriptor`, and where nobody opens the pipe to write.
    """
    deadline = time.monotonic() + WRITER_SECONDS
    has_begun = False

    def following() -> bytes:
        nonlocal has_begun
        while True:
            try:
                data = os.read(descriptor, _CHUNK_BYTES)
            except BlockingIOError:  # there is a writer
                has_begun = True
                _wait_for(descriptor, stop)
                continue
            has_begun = has_begun or bool(data)
            if has_begun:
                return data
            if time.monotonic() > deadline:
                raise Unreadable(f"a pipe that nobody wrote to within {WRITER_SECONDS:.0f} s")
            if stop.wait(_LOOK_SECONDS):
                raise Unreadable("given up")

    return _copy(following)


def read_object(stream: Any, stop: threading.Event) -> BinaryIO:
    """Return what an object with a method ``read`` holds, from its start if it has one.

    Raises
    ------
    Unreadable
        If it reads text, or too much, or `stop` was set.
    """
    with _reading:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.seek(0)

        def following() -> bytes:
            if stop.is_set():
                raise Unreadable("given up")
            data = stream.read(_CHUNK_BYTES)
            if isinstance(data, str):
                raise Unreadable("a file opened as text; open it with mode 'rb'")
            return bytes(data or b"")

        return _copy(following)


def _next_bytes(descriptor: int, stop: threading.Event) -> bytes:
    _wait_for(descriptor, stop)
    return os.read(descriptor, _CHUNK_BYTES)


def _wait_for(descriptor: int, stop: threading.Event) -> None:
    """Return when there is something to read, or an end."""
    if os.name != "posix" or stat.S_ISREG(os.fstat(descriptor).st_mode):
        return  # elsewhere only sockets can be waited for
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while not poll.poll(1000 * _LOOK_SECONDS):
        if stop.is_set():
            raise Unreadable("given up")


def _copy(following: Callable[[], bytes]) -> BinaryIO:
    """Return a file of what `following` gives until it gives nothing."""
    copy: Any = io.BytesIO()
    count = 0
    try:
        while data := following():
            count += len(data)
            if count > MOST_STREAM_BYTES:
                raise Unreadable(f"more than {MOST_STREAM_BYTES >> 20} MiB came through it")
            if count > _IN_MEMORY_BYTES and isinstance(copy, io.BytesIO):
                so_far, copy = copy, tempfile.TemporaryFile()  # noqa: SIM115
                copy.write(so_far.getvalue())
            copy.write(data)
    except BaseException:
        copy.close()
        raise
    copy.seek(0)
    file: BinaryIO = copy
    return file
