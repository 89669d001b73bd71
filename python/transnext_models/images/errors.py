"""The error of an image that cannot be read."""

from __future__ import annotations

import os


class ImageError(ValueError):
    """One file, stream or object is no image that can be read.

    Attributes
    ----------
    path, reason
        Its name, and why.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = os.fspath(path)
        self.reason = reason
