"""The errors of what cannot be read as an image."""

from __future__ import annotations

import os


class ImageError(ValueError):
    """One file, stream or object is no image that can be read.

    Attributes
    ----------
    path, reason : str | os.PathLike[str], str
        Its name, and why.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = os.fspath(path)
        self.reason = reason


class Unreadable(ValueError):
    """What was given is no image that can be read; the message is the reason, without a name."""
