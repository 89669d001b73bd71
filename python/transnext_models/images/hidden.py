"""What users do not mean when they name a folder: files of the system and of programs."""

from __future__ import annotations

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
