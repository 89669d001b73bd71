"""ImageNet-1K's validation images, in folders of their classes or as they are downloaded.

The download is one flat archive, and the development kit that says which class each image is of;
`training.sources.imagenet` reads both.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..training.sources.imagenet import (
    KIT,
    TRAIN_ARCHIVE,
    VAL_ARCHIVE,
    kit_in,
    validation_classes,
)
from .class_lists import wnids
from .listing import SPLIT_FOLDERS, find_classes
from .trees import Tree, open_tree

__all__ = ["SortedTree", "open_validation"]

_OPTION = "imagenet"


def open_validation(path: Path) -> Tree:
    """Return the tree with a folder for each class.

    Parameters
    ----------
    path : Path
        An archive; or a folder, in which the first of these counts: folders of the classes; ``val``
        or ``validation`` with such, with archives of the classes or with flat images;
        ``ILSVRC2012_img_val.tar``; archives of the classes; flat images. Flat images have the
        development kit, packed or not, beside them.

    Raises
    ------
    ValueError
        If there is nothing there, an archive is damaged, or images do not belong to the kit.
    """
    if path.name == TRAIN_ARCHIVE:
        raise ValueError(f"{_OPTION}: got {path}, the training images, needs {VAL_ARCHIVE}")
    known = set(wnids())
    whole = open_tree(_OPTION, path)
    if find_classes(whole, known):
        return whole
    if path.is_dir():
        places = [path / name for name in (*SPLIT_FOLDERS, VAL_ARCHIVE) if (path / name).exists()]
        place = next(iter(places), path)
        tree = open_tree(_OPTION, place, known.__contains__)
    else:
        place, tree = path, whole
    if tree.folders() or not tree.images():
        return tree
    kit = next(filter(None, map(kit_in, [place.parent, *filter(Path.is_dir, [place])])), None)
    if kit is None:
        raise ValueError(
            f"{_OPTION}: got {place}, {len(tree.images())} images in no folders, needs the folders "
            f"of their classes, or {KIT}.tar.gz beside it: it says which class each is of"
        )
    try:
        classes = validation_classes(tree.images(), place, kit, are_all=False)
    except ValueError as error:
        raise ValueError(f"{_OPTION}: {error}") from error
    return SortedTree(tree, classes)


class SortedTree:
    """A folder for each class of the images that lie in none.

    Parameters
    ----------
    tree : Tree
        With images in its root.
    classes : iterable of str
        Of each, in their order.
    """

    def __init__(self, tree: Tree, classes: Iterable[str]) -> None:
        self.name = tree.name
        self._tree = tree
        self._images: dict[str, list[str]] = {}
        for name, image in zip(classes, tree.images(), strict=True):
            self._images.setdefault(name, []).append(image)

    def folders(self, at: str = "") -> list[str]:
        """Return the names of the folders in one, sorted."""
        return [] if at else sorted(self._images)

    def images(self, at: str = "") -> list[str]:
        """Return the names of the images in a folder, sorted."""
        return self._images.get(at, [])

    def open(self, path: str) -> BinaryIO:
        """Open an image for reading."""
        return self._tree.open(PurePosixPath(path).name)
