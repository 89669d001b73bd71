"""The files of a zip, each read where it lies, with the checks of tars."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

from .archives import LARGEST_IMAGE, opened
from .image_set import UnreadableImage
from .tar_members import ArchiveError, Member, safe_name

__all__ = ["ZipArchive", "is_zip"]

_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")  # of one with files, and without
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # which zipfile unpacks piece by piece
_ENCRYPTED = 1  # of a member's flags


def is_zip(path: Path) -> bool:
    """Whether a file begins or is called as a zip."""
    with opened(path) as region:
        return path.suffix.lower() == ".zip" or region.read(4) in _MAGIC


class ZipArchive:
    """The regular files of a zip; of several of one name the last, as in unpacking.

    Nothing of it is written anywhere. It can be pickled, and read from in forked processes.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ArchiveError
        It is damaged, or has members that lead out of it, are no files, or cannot be unpacked.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        self._files = {
            safe_name(info.filename, str(path)): info
            for info in self._archive().infolist()
            if not info.is_dir()
        }
        for name, info in self._files.items():
            if fault := _fault(info):
                raise ArchiveError(str(path), f"its member {name} {fault}")

    def members(self) -> Iterator[Member]:
        """Yield its files; the size is what they unpack to, the offset that of their headers."""
        for name, info in self._files.items():
            yield Member(name, info.header_offset, info.file_size)

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises
        ------
        FileNotFoundError
            There is none of this name.
        UnreadableImage
            It is too large, or damaged.
        """
        info = self._files.get(name)
        if info is None:
            raise FileNotFoundError(name)
        if info.file_size > LARGEST_IMAGE:
            raise UnreadableImage(f"{self._path}: {name}", f"has {info.file_size >> 20:,} MiB")
        try:
            # Asked for a number of bytes, it unpacks no more, whatever the member would give.
            with self._archive().open(info) as member:
                return member.read(info.file_size)
        except Exception as error:  # zipfile meets damaged members with almost anything
            raise UnreadableImage(f"{self._path}: {name}", str(error)) from error

    def _archive(self) -> zipfile.ZipFile:
        """Return it opened by this process: those that are forked would share a position."""
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = os.getpid(), zipfile.ZipFile(self._path)
            except OSError as error:
                fault = f"cannot be read ({error.strerror or error})"
                raise ArchiveError(str(self._path), fault) from error
            except Exception as error:
                raise ArchiveError(str(self._path), f"is no whole zip ({error})") from error
        return self._opened[1]

    def __reduce__(self) -> tuple[type[ZipArchive], tuple[Path]]:
        return ZipArchive, (self._path,)


def _fault(info: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where it was not made on Unix
    if kind not in (0, stat.S_IFREG):
        return "is a link or a device, needs a regular file"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted: unpack it"
    if info.compress_type not in _METHODS:
        return f"is packed by method {info.compress_type}, needs none or deflate: unpack it"
    return None
