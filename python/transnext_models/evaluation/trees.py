"""Folders of images, on disk or in a tar file, seen in one way."""

from __future__ import annotations

import bisect
import io
import os
import tarfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from ..images import SUFFIXES, is_hidden

__all__ = ["FolderTree", "TarTree", "Tree", "open_tree"]

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".tgz", ".zip", ".7z")


class Tree(Protocol):
    """A tree of folders with images. Paths are relative, with slashes; "" is the root.

    Hidden folders and files are left out, and files that are not named as images.
    """

    name: str
    """What errors call it."""

    def folders(self, at: str = "") -> list[str]:
        """Return the names of the folders in one, sorted."""

    def images(self, at: str = "") -> list[str]:
        """Return the names of the images in a folder, sorted."""

    def open(self, path: str) -> BinaryIO:
        """Open an image for reading."""


def open_tree(option: str, path: str | os.PathLike[str]) -> Tree:
    """Return the tree in a folder or a tar file.

    Raises
    ------
    ValueError
        If there is none, or it is compressed, which gives no access to a single image.
    """
    place = Path(path)
    if place.is_dir():
        return FolderTree(place)
    if not place.exists():
        raise ValueError(f"{option}: got {place}, which does not exist")
    if place.suffix.lower() in _COMPRESSED:
        raise ValueError(f"{option}: got {place}, needs a folder or an uncompressed tar: unpack it")
    try:
        return TarTree(place)
    except tarfile.TarError as error:
        raise ValueError(f"{option}: got {place}, needs a folder or a tar ({error})") from error


def joined(at: str, name: str) -> str:
    """Return the path of `name` in the folder `at`."""
    return f"{at}/{name}" if at else name


def _is_image(name: str) -> bool:
    return not is_hidden(name) and os.path.splitext(name)[1].lower() in SUFFIXES


class FolderTree:
    """A folder on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = str(root)

    def folders(self, at: str = "") -> list[str]:
        """Return the names of the folders in one, sorted."""
        with os.scandir(self.root / at) as entries:
            return sorted(
                entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name)
            )

    def images(self, at: str = "") -> list[str]:
        """Return the names of the images in a folder, sorted."""
        with os.scandir(self.root / at) as entries:
            return sorted(
                entry.name for entry in entries if _is_image(entry.name) and not entry.is_dir()
            )

    def open(self, path: str) -> BinaryIO:
        """Open an image for reading."""
        return open(self.root / path, "rb")


class TarTree:
    """A tar file as it is downloaded: its headers are read once, its images where they lie."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.name = str(file)
        self._folders: dict[str, list[str]] = {"": []}
        self._images: dict[str, list[str]] = {}
        self._places: dict[str, tuple[int, int]] = {}
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                parts = [part for part in path.parts if part not in (".", "/")]
                if not parts or ".." in parts or any(is_hidden(part) for part in parts):
                    continue
                if member.isdir():
                    self._add_folder(parts)
                elif member.isreg() and _is_image(parts[-1]):
                    folder = self._add_folder(parts[:-1])
                    name = "/".join(parts)
                    if name not in self._places:  # a later member of the name replaces it
                        self._images.setdefault(folder, []).append(parts[-1])
                    self._places[name] = member.offset_data, member.size
        for names in (*self._folders.values(), *self._images.values()):
            names.sort()

    def folders(self, at: str = "") -> list[str]:
        """Return the names of the folders in one, sorted."""
        return self._folders[at]

    def images(self, at: str = "") -> list[str]:
        """Return the names of the images in a folder, sorted."""
        return self._images.get(at, [])

    def open(self, path: str) -> BinaryIO:
        """Open an image for reading: its bytes, which are small."""
        offset, size = self._places[path]
        with open(self.file, "rb", buffering=0) as file:
            file.seek(offset)
            return io.BytesIO(file.read(size) or b"")

    def _add_folder(self, parts: list[str]) -> str:
        at = ""
        for part in parts:
            path = joined(at, part)
            if path not in self._folders:
                self._folders[path] = []
                bisect.insort(self._folders[at], part)
            at = path
        return at
