"""The error of what cannot be read as an annotation."""

from __future__ import annotations

import os

__all__ = ["AnnotationError"]


class AnnotationError(ValueError):
    """A file of annotations, or one entry of it, is not what its format says.

    Attributes
    ----------
    file : str
        Its path.
    entry : str
        Which entry, "" where it is the file as a whole.
    reason : str
        What is wrong.
    """

    def __init__(self, file: str | os.PathLike[str], entry: str, reason: str) -> None:
        place = os.fspath(file) if not entry else f"{os.fspath(file)}: {entry}"
        super().__init__(f"{place}: {reason}")
        self.file = os.fspath(file)
        self.entry = entry
        self.reason = reason

    def __reduce__(self) -> tuple[type[AnnotationError], tuple[str, str, str]]:
        return type(self), (self.file, self.entry, self.reason)
