"""Find the images of a set in a tree, and name everything that is not as it should be."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .image_sets import CORRUPTION_GROUPS, CORRUPTIONS, KNOWN_SETS, ImageSet
from .trees import Tree, joined

__all__ = [
    "SPLIT_FOLDERS",
    "LabelledImage",
    "Listing",
    "find_classes",
    "images_below",
    "list_set",
]

SPLIT_FOLDERS = ("val", "validation")
"""In which the classes' folders may lie."""

_TRAINING = "train"
_SHOWN = 5
_WRAPPERS = 3  # folders around the classes' folders, as downloads have them


class LabelledImage(NamedTuple):
    """An image of a tree, and its label among the model's classes."""

    path: str
    label: int


@dataclass
class Listing:
    """What was found of a set.

    Attributes
    ----------
    set : ImageSet
    at : str
        The folder in the tree that holds the classes' folders.
    folders : list of (str, int)
        Path and label of each class's folder, by label.
    count : int
        Images in them.
    faults : list of str
        What is missing, doubled or strange, in words.
    is_unusable : bool
        Whether nothing can be evaluated, so that a fault cannot be passed over.
    """

    set: ImageSet
    at: str = ""
    folders: list[tuple[str, int]] = field(default_factory=list)
    count: int = 0
    faults: list[str] = field(default_factory=list)
    is_unusable: bool = False

    @property
    def note(self) -> str:
        """What marks the results of a set with faults; "" for one without."""
        if not self.faults:
            return ""
        if self.set.images is not None and self.count != self.set.images:
            return f"incomplete: {self.count} of {self.set.images} images"
        return "incomplete"


def list_set(image_set: ImageSet, tree: Tree, at: str = "") -> Listing:
    """Look for a set's classes in a tree and count their images.

    Parameters
    ----------
    image_set : ImageSet
    tree : Tree
    at : str
        The folder in which to look for them; see `find_classes`.
    """
    names = image_set.folders()
    listing = Listing(image_set)
    places = find_classes(tree, names, at)
    if not places:
        return _nothing(listing, tree, at)
    listing.at = at = places[0]
    if len(places) > 1:
        shown = _shown(f"{tree.name}/{place}".rstrip("/") for place in places)
        listing.faults.append(f"its classes are found in several folders: {shown}")
    found: dict[int, list[str]] = {}
    strange = []
    for folder in tree.folders(at):
        label = names.get(_class_name(folder, names))
        if label is None:
            strange.append(folder)
        else:
            found.setdefault(label, []).append(folder)
    listing.folders = [
        (joined(at, folder), label) for label in sorted(found) for folder in found[label]
    ]
    counts = {path: len(tree.images(path)) for path, _ in listing.folders}
    listing.count = sum(counts.values())
    listing.is_unusable = listing.count == 0
    twice = [" and ".join(folders) for folders in found.values() if len(folders) > 1]
    missing = [name for name, label in names.items() if label not in found]
    empty = [path for path, count in counts.items() if count == 0]
    for what, which in (
        ("classes twice", twice),
        ("classes missing", missing),
        ("folders that are no class of it", strange),
        ("folders without images", empty),
    ):
        if which:
            listing.faults.append(f"{len(which)} {what}: {_shown(which)}")
    if image_set.images is not None and listing.count != image_set.images:
        listing.faults.append(f"{listing.count} images, needs {image_set.images}")
    if listing.faults:
        _recognise(listing, {_class_name(name, names) for name in tree.folders(at)})
    return listing


def images_below(tree: Tree, folders: Sequence[tuple[str, int]]) -> list[LabelledImage]:
    """Return the images of a listing's folders in their order: by label, then by name."""
    return [
        LabelledImage(joined(folder, name), label)
        for folder, label in folders
        for name in tree.images(folder)
    ]


def find_classes(tree: Tree, names: Collection[str], at: str = "") -> list[str]:
    """Return the folders, from `at` inwards, whose folders are named as classes.

    The folder itself, ``val`` or ``validation`` in it, or what a download wraps around: folders
    that hold one folder each; but never ``train``.
    """
    places = []
    for _ in range(_WRAPPERS):
        inner = [joined(at, name) for name in tree.folders(at) if name in SPLIT_FOLDERS]
        for place in (at, *inner):
            if any(_class_name(name, names) in names for name in tree.folders(place)):
                places.append(place)
        folders = tree.folders(at)
        if places or len(folders) != 1 or folders[0] == _TRAINING:
            break
        at = joined(at, folders[0])
    return places


def _class_name(folder: str, names: Collection[str]) -> str:
    """Return the name of the class that a folder is meant for.

    Another spelling counts too (``N01440764``, ``007``), so that a class that is there twice is
    seen.
    """
    if folder in names:
        return folder
    if folder.isascii() and folder.isdecimal():
        return str(int(folder))
    return folder.lower()


def _nothing(listing: Listing, tree: Tree, at: str) -> Listing:
    listing.is_unusable = True
    wanted = list(listing.set.folders())
    found = tree.folders(at)
    has = f"its folders are {_shown(found)}" if found else "it has no folders"
    if flat := len(tree.images(at)):
        has += f", and {flat} images in none: each belongs into the folder of its class"
    listing.faults.append(f"no folder of a class such as {_shown(wanted[:2])}; {has}")
    _recognise(listing, set(found))
    return listing


def _recognise(listing: Listing, folders: set[str]) -> None:
    """Say which set a folder looks like, if it is another one than was asked for."""
    found = _set_of(listing, folders)
    if found is not None:
        listing.faults.append(f"it looks like {found}: were two folders swapped?")


def _set_of(listing: Listing, folders: set[str]) -> str | None:
    wanted = set(listing.set.folders())
    for other in KNOWN_SETS:
        names = set(other.folders())
        is_another = other.option != listing.set.option and names == folders
        if is_another and (names != wanted or other.images == listing.count):
            return other.name
    if folders & {*CORRUPTIONS, *CORRUPTION_GROUPS}:
        return "imagenet-c"
    return None


def _shown(names: Iterable[str]) -> str:
    names = list(names)
    more = f", … ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
