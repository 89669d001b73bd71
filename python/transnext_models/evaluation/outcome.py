"""What an evaluation comes to, and who is told how it goes."""

from __future__ import annotations

from dataclasses import dataclass, field

from .engine import Speed
from .processes import OtherProcessFailed
from .rows import Row

__all__ = ["OtherProcessFailed", "Outcome", "Watcher"]


class Watcher:
    """Who is told how an evaluation goes; the first process calls it."""

    def remark(self, text: str) -> None:
        """Take a remark."""

    def started(self, title: str, images: int) -> None:
        """Take note that a set begins."""

    def advanced(self, images: int) -> None:
        """Take note that so many more of its images are answered."""

    def finished(self, row: Row, speed: Speed | None) -> None:
        """Take a new row; the speed is None where it was computed from others."""

    def failed(self, title: str, reason: str) -> None:
        """Take note that a set has no row."""


@dataclass
class Outcome:
    """What an evaluation came to.

    Attributes
    ----------
    rows : list of Row
        Those that were asked for, measured now or before.
    failures : list of str
        Sets without a row, and why.
    is_first : bool
        Whether this is the process that writes; the others' lists are empty.
    """

    rows: list[Row] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    is_first: bool = True
