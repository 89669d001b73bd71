"""Files in the archives that sets are downloaded in, as if those were folders.

``…/val2017.zip/000000000139.jpg`` is an image in ``val2017.zip``, or in the one folder that is all
that the archive holds. Of zips and uncompressed tars single files can be read.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from ..images import ImageError, is_hidden
from ..images.formats import readable_formats
from ..images.quiet import quiet
from ..training.sources.archives import LARGEST_IMAGE, archive_members
from ..training.sources.tar_members import ArchiveError
from ..training.sources.zip_archive import ZipArchive
from .errors import AnnotationError

__all__ = ["is_archive", "is_folder", "names_in", "open_file", "opened_image"]

_SUFFIXES = (".zip", ".tar")
_OPEN = 8  # archives that a process knows at a time

Read = Callable[[], bytes]


def is_archive(path: Path) -> bool:
    """Whether a path is a file whose name says that it is a zip or a tar."""
    return path.suffix.lower() in _SUFFIXES and path.is_file()


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, also one in an archive that has files in it."""
    return path.is_dir() or bool(names_in(str(path)))


def names_in(folder: str) -> frozenset[str]:
    """Return the names in a folder, also in one of an archive; none where it is not there.

    Raises
    ------
    AnnotationError
        The archive is damaged; names it.
    """
    archive, inside = _parted(folder)
    if archive is not None:
        found = (name.rpartition("/") for name in _members(archive, *_state(archive)))
        return frozenset(name for at, _, name in found if at == inside)
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()


def open_file(path: str) -> BinaryIO:
    """Open a file, also one in an archive.

    Raises
    ------
    ImageError
        There is none, or it cannot be read; names it.
    """
    archive, inside = _parted(path)
    if archive is None:
        try:
            return open(path, "rb")
        except OSError as error:
            raise ImageError(path, error.strerror or str(error)) from error
    read = _members(archive, *_state(archive)).get(inside)
    if read is None:
        raise ImageError(path, "no such file in the archive")
    try:
        return io.BytesIO(read())
    except Exception as error:  # zipfile meets damaged members with almost anything
        raise ImageError(path, f"cannot be read from the archive ({error})") from error


@contextmanager
def opened_image(path: str | Path) -> Iterator[Image.Image]:
    """Open an image file, also one in an archive, and read its header; errors are Pillow's too."""
    with (
        open_file(str(path)) as file,
        quiet(),
        Image.open(file, formats=readable_formats()) as image,
    ):
        yield image


def _parted(path: str) -> tuple[str | None, str]:
    """Return the archive that a path goes through, None without, and the path inside."""
    lower = path.lower()
    for suffix in _SUFFIXES:
        end = lower.find(suffix) + len(suffix)
        while end >= len(suffix):
            if lower[end : end + 1] in ("", "/", os.sep) and os.path.isfile(path[:end]):
                return path[:end], path[end + 1 :].replace(os.sep, "/")
            end = lower.find(suffix, end) + len(suffix)
    return None, path


def _state(archive: str) -> tuple[int, int]:
    """Return the process, since one that is forked opens its own, and when the archive changed."""
    return os.getpid(), os.stat(archive).st_mtime_ns


@functools.lru_cache(_OPEN)
def _members(archive: str, process: int, changed: int) -> Mapping[str, Read]:
    """Return how each file of an archive is read."""
    try:
        is_zip = archive.lower().endswith(".zip")
        files = _of_zip(archive) if is_zip else _of_tar(archive)
    except (OSError, ArchiveError) as error:
        raise AnnotationError(archive, "", f"cannot be read as an archive ({error})") from error
    found = {name: read for name, read in files if not any(map(is_hidden, name.split("/")))}
    tops = {name.partition("/")[0] if "/" in name else "" for name in found}
    if len(tops) == 1 and tops != {""}:
        return {name.partition("/")[2]: read for name, read in found.items()}
    return found


def _of_zip(archive: str) -> Iterable[tuple[str, Read]]:
    opened = ZipArchive(Path(archive))
    return [
        (member.name, functools.partial(opened.read, member.name)) for member in opened.members()
    ]


def _of_tar(archive: str) -> Iterable[tuple[str, Read]]:
    def reader(offset: int, size: int) -> Read:
        def read() -> bytes:
            if size > LARGEST_IMAGE:
                raise ValueError(f"more than {LARGEST_IMAGE:,} bytes")
            with open(archive, "rb") as file:
                file.seek(offset)
                return file.read(size)

        return read

    return [
        (member.name, reader(member.offset, member.size))
        for member in archive_members(Path(archive))
    ]
