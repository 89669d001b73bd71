"""Images that stay in their archives, and the archives of which every member is in a class."""

from __future__ import annotations

import contextlib
import io
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ...images import is_hidden
from ...images.formats import is_image_name
from .archive_index import ArchiveIndex, Entry, indexed
from .image_set import ImageSet, UnreadableImage
from .tar_members import ArchiveError, Member, Region, members

__all__ = [
    "LARGEST_IMAGE",
    "ArchivedImages",
    "archive_members",
    "class_archives",
    "images_of",
    "opened",
]

LARGEST_IMAGE = 1 << 28  # bytes; ImageNet's largest file has 15 MB
_OPEN_ARCHIVES = 64


class ArchivedImages(ImageSet):
    """Images in archives, each read where it lies.

    Parameters
    ----------
    paths : Sequence[Path]
        The archives.
    index : ArchiveIndex
        What they hold.
    """

    def __init__(self, paths: Sequence[Path], index: ArchiveIndex) -> None:
        super().__init__(index.labels, index.classes or None)
        self._paths = [str(path) for path in paths]
        self._index = index
        self._files = _OpenFiles()

    def name(self, index: int) -> str:
        """Return the path of an image's archive, and its name in there."""
        return f"{self._paths[self._index.archives[index]]}: {self._index.names[index]}"

    def open(self, index: int) -> BinaryIO:
        """Return the bytes of an image."""
        size = int(self._index.sizes[index])
        if size > LARGEST_IMAGE:
            raise UnreadableImage(self.name(index), f"has {size >> 20:,} MiB")
        path = self._paths[self._index.archives[index]]
        content = self._files.read(path, int(self._index.offsets[index]), size)
        if len(content) < size:
            raise UnreadableImage(self.name(index), "the archive has become shorter")
        return io.BytesIO(content)


class _OpenFiles:
    """The files last read from, which a process opens for itself once it needs them.

    A forked process inherits the descriptors of its parent. It can go on reading from them, since
    reading at an offset moves no position that both would share.
    """

    def __init__(self) -> None:
        self._files: OrderedDict[str, Any] = OrderedDict()

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Return `size` bytes, fewer where the file ends before."""
        file = self._files.pop(path, None)
        if file is None:
            file = open(path, "rb", buffering=0)  # noqa: SIM115 -- stays open
        self._files[path] = file
        if len(self._files) > _OPEN_ARCHIVES:
            self._files.popitem(last=False)[1].close()
        return os.pread(file.fileno(), size, offset)

    def __reduce__(self) -> tuple[type[_OpenFiles], tuple[()]]:
        return _OpenFiles, ()

    def __del__(self) -> None:
        for file in self._files.values():
            file.close()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Region]:
    """Open an archive, and name it in the errors of the operating system."""
    try:
        with open(path, "rb") as file:
            yield Region(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise ArchiveError(str(path), f"cannot be read ({error.strerror or error})") from error


def archive_members(path: Path) -> Iterator[Member]:
    """Yield the regular files of an archive."""
    with opened(path) as region:
        yield from members(region, str(path))


def images_of(found: Iterator[Member]) -> Iterator[Member]:
    """Leave out what is hidden or no image."""
    for member in found:
        path = Path(member.name)
        if is_image_name(path) and not any(is_hidden(part) for part in path.parts):
            yield member


def class_archives(paths: Sequence[Path]) -> ArchivedImages:
    """Return the images of archives that are named after a class each.

    In an archive they may lie in a folder of that name again.

    Raises
    ------
    ArchiveError
        An archive is damaged or holds no image.
    """

    def entries() -> Iterator[Entry]:
        for number, path in enumerate(paths):
            found = False
            for member in images_of(archive_members(path)):
                found = True
                yield class_entry(path.stem, number, member)
            if not found:
                raise ArchiveError(str(path), "holds no images")

    return ArchivedImages(paths, indexed("class archives", paths, entries))


def class_entry(name: str, archive: int, member: Member) -> Entry:
    """Return the entry of an image of the class `name`, called as in a folder per class."""
    inner = member.name.removeprefix(f"{name}/")
    return Entry(name, f"{name}/{inner}", archive, member.offset, member.size)
