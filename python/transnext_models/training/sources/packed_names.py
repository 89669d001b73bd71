"""Millions of names in three objects, for memory that loading processes share with the trainer.

A list of a million strings takes ten times their letters, and every process that looks at one
writes its reference count, which makes a copy of the page for each.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["PackedNames"]


class PackedNames:
    """Names by number, of files or of members of archives.

    Parameters
    ----------
    letters : uint8 [total length]
        All names one after another, as the file system encodes them.
    ends : int64 [n]
        Where each ends.
    """

    def __init__(self, letters: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.letters = letters
        self.ends = ends

    @classmethod
    def of(cls, names: Iterable[str]) -> PackedNames:
        """Pack `names`."""
        letters, ends = bytearray(), []
        for name in names:
            letters += os.fsencode(name)
            ends.append(len(letters))
        return cls(np.frombuffer(bytes(letters), np.uint8), np.array(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.letters[start : self.ends[index]].tobytes())

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))
