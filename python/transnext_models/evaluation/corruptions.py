"""Find ImageNet-C's corruptions in a folder, in both layouts, or in the tars of its download."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .image_sets import CORRUPTION_GROUPS, CORRUPTIONS, IMAGENET_C, SEVERITIES
from .listing import Listing, list_set
from .trees import Tree, joined, open_parts, open_tree

__all__ = ["Corrupted", "list_corruptions"]

_GROUPS = (*CORRUPTION_GROUPS, "extra")
_WRAPPERS = 2


@dataclass
class Corrupted:
    """What was found of ImageNet-C.

    Attributes
    ----------
    listings : dict[(str, int), (Tree, Listing)]
        Of each corruption and severity that is there, in the table's order.
    faults : list of str
        What is missing or doubled.
    """

    listings: dict[tuple[str, int], tuple[Tree, Listing]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def list_corruptions(path: Path) -> Corrupted:
    """List the images of the 15 corruptions of the mean corruption error.

    Parameters
    ----------
    path : Path
        ``<corruption>/<severity>/<wnid>/``, or the same below ``noise``, ``blur``, ``weather`` and
        ``digital``, or a folder with the tars of these names.
    """
    found = Corrupted()
    places: dict[str, list[tuple[Tree, str]]] = {}
    for tree in _trees(path):
        for corruption, at in _corruptions_in(tree):
            places.setdefault(corruption, []).append((tree, at))
    if not places:
        nothing = list_set(IMAGENET_C, open_tree("c", path))
        like = [fault for fault in nothing.faults if fault.startswith("it looks like")]
        found.faults.append(f"no folder of a corruption such as {', '.join(CORRUPTIONS[:2])}")
        found.faults += like
        return found
    missing = [corruption for corruption in CORRUPTIONS if corruption not in places]
    if missing:
        found.faults.append(f"{len(missing)} corruptions missing: {', '.join(missing)}")
    of_images = []
    for corruption in CORRUPTIONS:
        if corruption not in places:
            continue
        if len(places[corruption]) > 1:
            twice = " and ".join(f"{tree.name}/{at}" for tree, at in places[corruption])
            found.faults.append(f"{corruption} twice: {twice}")
        tree, at = places[corruption][0]
        there = tree.folders(at)
        for severity in SEVERITIES:
            if str(severity) not in there:
                found.faults.append(f"{corruption}: severity {severity} missing")
                continue
            listing = list_set(IMAGENET_C, tree, joined(at, str(severity)))
            of_images += [f"{corruption}/{severity}: {fault}" for fault in listing.faults]
            if not listing.is_unusable:
                found.listings[corruption, severity] = tree, listing
    found.faults += of_images  # there may be many
    return found


def _trees(path: Path) -> Iterator[Tree]:
    """Yield the folder or archive, and the archives of groups that are not unpacked there."""
    tree = open_tree("c", path)
    yield tree
    if path.is_dir():
        there = {corruption for corruption, _ in _corruptions_in(tree)}
        packed = {name for name, names in CORRUPTION_GROUPS.items() if there.isdisjoint(names)}
        archives = open_parts("c", path, packed.__contains__)
        if archives is not None:
            yield archives


def _corruptions_in(tree: Tree) -> Iterator[tuple[str, str]]:
    """Yield each corruption's name and folder, from the first level that has any."""
    at = ""
    for _ in range(_WRAPPERS):
        folders = tree.folders(at)
        groups = [joined(at, name) for name in folders if name in _GROUPS]
        found = [
            (name, joined(place, name))
            for place in (at, *groups)
            for name in tree.folders(place)
            if name in CORRUPTIONS
        ]
        yield from found
        if found or len(folders) != 1:
            return
        at = joined(at, folders[0])
