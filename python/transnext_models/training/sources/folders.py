"""A folder per class, with its images and more folders of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...images import is_hidden
from ...images.formats import readable_suffixes
from .classes import image_key, in_order
from .image_set import ImageSet
from .packed_names import PackedNames

__all__ = ["Files", "class_folders", "images_below", "visible_entries"]


class Files(ImageSet):
    """Images in files.

    Parameters
    ----------
    root : Path
        What their names start from.
    names : PackedNames
        Paths of the images, relative to `root` or absolute.
    labels, class_names
        As for `ImageSet`.
    """

    def __init__(
        self,
        root: Path,
        names: PackedNames,
        labels: NDArray[Any],
        class_names: tuple[str, ...] | None,
    ) -> None:
        super().__init__(labels, class_names)
        self._root = str(root)
        self._names = names

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return os.path.join(self._root, self._names[index])

    def open(self, index: int) -> BinaryIO:
        """Return the bytes of an image."""
        return open(self.name(index), "rb")


def class_folders(root: Path) -> Files:
    """Return the images below `root`, each of the class that the folder in `root` is named after.

    Hidden files and folders are left out, and classes that have no image; links are followed.

    Raises
    ------
    ValueError
        There is no such image, or a folder cannot be read.
    """
    found = {}
    for entry in visible_entries(root):
        if entry.is_dir():
            names = sorted(images_below(Path(entry.path)), key=image_key)
            if names:
                found[entry.name] = names
    class_names = in_order(found)
    if not class_names:
        raise ValueError(f"{root}: holds no images, needs {root.name}/<class>/<image>")
    return Files(
        root,
        PackedNames.of(f"{name}/{path}" for name in class_names for path in found[name]),
        np.repeat(np.arange(len(found), dtype=np.int32), [len(found[n]) for n in class_names]),
        class_names,
    )


def images_below(folder: Path) -> Iterator[str]:
    """Yield the paths of images in `folder` and all folders below, relative to it, unsorted."""
    yield from _images_below(str(folder), "", [])


def _images_below(folder: str, prefix: str, above: Sequence[os.stat_result]) -> Iterator[str]:
    suffixes = readable_suffixes()
    for entry in visible_entries(folder):
        if os.path.splitext(entry.name)[1].lower() in suffixes and not entry.is_dir():
            yield prefix + entry.name
        elif entry.is_dir():
            around = [*above, os.stat(folder)]
            if not any(os.path.samestat(entry.stat(), one) for one in around):  # a link upwards
                yield from _images_below(entry.path, f"{prefix}{entry.name}/", around)


def visible_entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Yield what is in a folder and not hidden.

    Raises
    ------
    ValueError
        It cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not is_hidden(entry.name))
    except OSError as error:
        raise ValueError(f"{folder}: cannot be read ({error.strerror})") from error
