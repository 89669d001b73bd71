"""The result of a search for images."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .errors import ImageError


@dataclass(slots=True)
class LeftOut:
    """Files, or folders with all below, that were seen and not taken.

    Attributes
    ----------
    reason : str
        Why, as a phrase that goes after a number: ``hidden``, ``of suffix .txt``.
    count : int
        How many.
    paths : list[Path]
        Which; none where only their suffix is the reason.
    """

    reason: str
    count: int = 0
    paths: list[Path] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class FoundImages:
    """What `find_images` found.

    Attributes
    ----------
    paths : list[Path]
        Files in order, without repeats.
    problems : list[ImageError]
        Names that gave none, and what below them could not be looked at.
    left_out : list[LeftOut]
        What was left out on purpose, by reason.
    """

    paths: list[Path]
    problems: list[ImageError]
    left_out: list[LeftOut] = field(default_factory=list)
