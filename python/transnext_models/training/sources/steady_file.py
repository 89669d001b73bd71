"""What lies at a URL, read forwards to its end, however often the connection breaks off.

A lane reads a shard over minutes, between other work: servers drop such connections, and stores
answer "slow down". The file is then opened anew and read on from the byte where it broke off.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

from .requirements import needed
from .tar_members import ArchiveError

__all__ = ["SteadyFile"]

_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt, while none brings a byte."""

_CHUNK = 1 << 20
# What another attempt would not change: no such file, no right to it, no such scheme.
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError, ValueError)
_PASSING_STATUS = (408, 425, 429)  # of the statuses that blame the client


class SteadyFile:
    """Bytes at a URL that fsspec can open.

    Parameters
    ----------
    url : str
        For instance ``https://…``, ``s3://…``, ``memory://…``.
    """

    def __init__(self, url: str) -> None:
        self._fsspec = needed("fsspec", "sources", url)
        self._url = url
        self._file: Any = None
        self._position = 0
        self._size: int | None = None
        self._failures = 0
        # fsspec reads by parts; some web servers give whole files only.
        self._options: dict[str, int] = {}

    def __enter__(self) -> SteadyFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def read(self, count: int) -> bytes:
        """Return up to `count` of the next bytes; none at the end only.

        Raises
        ------
        ArchiveError
            It cannot be opened, breaks off again and again, or is another file by now.
        RuntimeError
            The package for this kind of URL is missing.
        """
        while True:
            try:
                content = self._next(count)
            except ImportError as error:  # fsspec names the package of the scheme
                raise RuntimeError(f"{self._url}: {error}") from error
            except (ArchiveError, MemoryError):
                raise
            except Exception as error:  # of the libraries behind it
                self._bear(error)
                continue
            self._failures = 0
            return content

    def _next(self, count: int) -> bytes:
        if self._file is None:
            self._file = self._fsspec.open(self._url, "rb", **self._options).open()
            self._compare_size()
            self._go_to(self._position)
        content: bytes = self._file.read(count)
        if not content and count and self._size is not None and self._position < self._size:
            raise ConnectionError(f"it ends before its {self._size:,} bytes")
        self._position += len(content)
        return content

    def _compare_size(self) -> None:
        size = getattr(self._file, "size", None)
        if size is None:
            return
        if self._size not in (None, size):
            raise ArchiveError(
                self._url, f"has changed while it was read: {size:,} bytes, before {self._size:,}"
            )
        self._size = size

    def _go_to(self, position: int) -> None:
        if position == 0:
            return
        with contextlib.suppress(ValueError, OSError):  # of streams that only go forwards
            self._file.seek(position)
            return
        left = position
        while left:
            passed = len(self._file.read(min(left, _CHUNK)))
            if not passed:
                raise ConnectionError(f"it ends before byte {position:,}")
            left -= passed

    def _bear(self, error: Exception) -> None:
        """Wait for another attempt, or give up."""
        self._close()
        if self._can_stream(error):
            self._options = {"block_size": 0}
            return
        text = f"{type(error).__name__}: {error}"
        if _is_final(error):
            raise ArchiveError(self._url, f"cannot be read ({text})") from error
        if self._failures == len(_PAUSES):
            fault = (
                f"cannot be read beyond byte {self._position:,}, in {self._failures + 1} attempts"
            )
            raise ArchiveError(self._url, f"{fault} ({text})") from error
        print(
            f"{self._url}: broke off at byte {self._position:,} ({text}); reading on",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(_PAUSES[self._failures])
        self._failures += 1

    def _can_stream(self, error: Exception) -> bool:
        """Whether a web server that does not give parts has not yet been asked for all."""
        is_web = self._url.startswith(("http://", "https://"))
        return is_web and isinstance(error, ValueError) and not self._options

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(Exception):  # of a connection that is lost already
                file.close()


def _is_final(error: Exception) -> bool:
    status = getattr(error, "status", None)  # aiohttp's, of HTTP
    if isinstance(status, int):
        return 400 <= status < 500 and status not in _PASSING_STATUS
    return isinstance(error, _FINAL)
