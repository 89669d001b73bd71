"""An archive that is compressed as a whole, decompressed once.

A gzip'ed tar gives no access to a single image. The tar in it is kept in the user's cache, beside
the indices of archives and, as they are, for archives of the same path, size and time of change.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

from .archive_index import cache_folder, digest_of
from .archives import opened
from .tar_members import ArchiveError, Readable, Stream, members

__all__ = ["decompressed"]

_GZIP = b"\x1f\x8b"
_TIMES = 20  # its compressed size, of images, which hardly get smaller
_LEAST = 64 << 20  # bytes that any archive may have; headers of small images compress well
_CHUNK = 1 << 20
_STALE = 3600  # seconds without a byte, after which nobody writes a file any more


def decompressed(path: Path) -> Path:
    """Return the archive itself or, of a gzip'ed one, the tar that is in it.

    Whether it is compressed is seen from its first bytes, whatever it is called.

    Raises
    ------
    ArchiveError
        It is damaged, holds what no data set should, is much larger than it says, or there is no
        room for it; nothing of it is left then.
    """
    with opened(path) as region:
        if region.read(len(_GZIP)) != _GZIP:
            return path
    folder = cache_folder()
    if folder is None:
        raise ArchiveError(str(path), "is compressed with gzip, and there is no cache: unpack it")
    target = folder / f"{path.name.partition('.')[0]}-{digest_of('gzip', [path])[:16]}.tar"
    if not target.exists():
        size = path.stat().st_size
        text = f"decompressing {path} ({size / 2**20:,.0f} MiB) to {target}, once"
        print(text, file=sys.stderr, flush=True)
        try:
            _decompress(path, target, max(_LEAST, _TIMES * size))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ArchiveError(str(path), f"cannot be decompressed ({error})") from error
        except OSError as error:
            raise ArchiveError(
                str(path),
                f"is compressed with gzip, and cannot be decompressed to {target} "
                f"({error.strerror or error}): make room, name another cache by XDG_CACHE_HOME, "
                "or unpack it",
            ) from error
    return target


def _decompress(path: Path, target: Path, limit: int) -> None:
    """Write the tar beside others that do the same, its members looked at on the way."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(target)
    with tempfile.NamedTemporaryFile(
        dir=target.parent, prefix=f".{target.name}.", suffix=".part", delete=False
    ) as part:
        try:
            with gzip.open(path) as file:
                source = Stream(_Copied(file, part, limit, path))
                for _ in members(source, str(path)):
                    pass
                while source.read(_CHUNK):  # to the checksum at its end
                    pass
            part.flush()
            os.fsync(part.fileno())
            os.replace(part.name, target)
        except BaseException:
            os.unlink(part.name)
            raise


def _remove_stale(target: Path) -> None:
    """Remove what killed processes have left of it."""
    for part in target.parent.glob(f".{target.name}.*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > _STALE:
                part.unlink()


class _Copied:
    """Bytes that are written to another file as they are read, up to a limit."""

    def __init__(self, file: Readable, copy: Any, limit: int, path: Path) -> None:
        self._file = file
        self._copy = copy
        self._left = limit
        self._path = path

    def read(self, count: int, /) -> bytes:
        """Return up to `count` of the next bytes; none at the end only."""
        content = self._file.read(count)
        self._left -= len(content)
        if self._left < 0:
            fault = f"has more than {_TIMES} times its size in it, needs images: unpack it yourself"
            raise ArchiveError(str(self._path), fault)
        self._copy.write(content)
        return content
