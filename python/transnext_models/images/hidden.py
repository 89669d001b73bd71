"""What users do not mean when they name a folder: files of the system and of programs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

# Folders and files that are hidden on the system that made them, and plain names elsewhere.
_HIDDEN_ELSEWHERE = {
    "__macosx",
    "__pycache__",
    "#recycle",
    "$recycle.bin",
    "@eadir",
    "@recycle",
    "@recently-snapshot",
    "lost+found",
    "system volume information",
    "desktop.ini",
    "ehthumbs.db",
    "thumbs.db",
}


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, on this system or where it came from.

    Hidden are names that begin with a dot (``.git``, ``.ipynb_checkpoints``, ``._photo.jpg``), and
    what Windows, macOS and network storage leave behind (``Thumbs.db``, ``__MACOSX``, ``@eaDir``).
    """
    return name.startswith(".") or name.lower() in _HIDDEN_ELSEWHERE


def is_visible(path: str | os.PathLike[str], root: str | os.PathLike[str]) -> bool:
    """Whether neither `path` nor a folder between it and `root`, which it lies in, is hidden."""
    parts = Path(os.path.relpath(path, root)).parts
    return not any(is_hidden(part) for part in parts if part != os.curdir)


def visible_classes(
    samples: Sequence[tuple[str, int]],
    class_to_idx: Mapping[str, int],
    root: str | os.PathLike[str],
) -> tuple[list[tuple[str, int]], dict[str, int]]:
    """Return the images of a folder per class without hidden ones, and the classes that have any.

    Parameters
    ----------
    samples : Sequence[tuple[str, int]]
        Path and class of each image below `root`.
    class_to_idx : Mapping[str, int]
        Names of the classes; those that stay are renumbered in the same order.
    """
    folders: dict[str, bool] = {}  # there are few of them, and millions of images
    visible = []
    for path, label in samples:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = is_visible(folder, root)
        if folders[folder] and not is_hidden(name):
            visible.append((path, label))
    labels = sorted({label for _, label in visible})
    renumbered = {label: index for index, label in enumerate(labels)}
    names = {label: name for name, label in class_to_idx.items()}
    return (
        [(path, renumbered[label]) for path, label in visible],
        {names[label]: index for label, index in renumbered.items()},
    )
