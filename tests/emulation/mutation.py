"""A place of the device code with a change that a test has to notice."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """One broken place."""

    file: str  # below cpp/cuda/kernels
    old: str  # stands there once
    new: str
    breaks: str
    tests: str  # which tests to run, for pytest's -k


def breaks(file: str, tests: str, marked: dict[str, str]) -> list[Mutation]:
    """Return the mutations of a file, from what each breaks to its place with the change marked."""
    change = re.compile("«(?P<old>[^«»→]*)→(?P<new>[^«»→]*)»")
    return [
        Mutation(file, change.sub(r"\g<old>", place), change.sub(r"\g<new>", place), breaks, tests)
        for breaks, place in marked.items()
    ]
