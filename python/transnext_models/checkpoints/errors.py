"""The exception that every checkpoint function raises, and escaping of text from files."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence

_LONGEST_REASON = 1000
_LONGEST_NAME = 80
# What moves a cursor, reorders or breaks a line, or cannot be encoded.
_UNSHOWN = ("Cc", "Cf", "Cs", "Zl", "Zp")


class CheckpointError(ValueError):
    """A weights file that cannot be used; the message, one line, names it and the reason."""


class WeightsWarning(UserWarning):
    """Something about a weights file that whoever uses it should know."""


def file_error(path: str | os.PathLike[str], reason: str) -> CheckpointError:
    """Return a `CheckpointError` whose message starts with the file's name."""
    return CheckpointError(about(path, reason))


def about(path: str | os.PathLike[str], text: str) -> str:
    """Return one line about a file that starts with its name; a very long `text` is cut."""
    return f"{escaped(os.fspath(path))}: {escaped(text, _LONGEST_REASON)}"


def quoted(text: str) -> str:
    """Return a name that a file gives, in quotes: escaped, and cut if it is long."""
    return f"'{escaped(text, _LONGEST_NAME)}'"


def listed(names: Sequence[str], most: int = 8, show: Callable[[str], str] = quoted) -> str:
    """Return the first of some names that a file gives, and how many more there are."""
    shown = ", ".join(map(show, names[:most]))
    return f"{shown}, and {len(names) - most} more" if len(names) > most else shown


def escaped(text: str, longest: int | None = None) -> str:
    r"""Return `text` on one line that shows what is in it; a longer one than `longest` is cut.

    Names in files, names of files and what errors say of them may hold what moves a terminal's
    cursor, reverses the direction of writing or pretends to be another line. Control and format
    characters, line and paragraph separators, and the surrogates that stand for bytes that are no
    text are escaped as in Python (``\x1b``).
    """
    cut = longest is not None and len(text) > longest
    if cut:
        text = text[:longest]
    if not (text.isascii() and text.isprintable()):
        text = "".join(map(_escaped, text))
    return f"{text}…" if cut else text


def _escaped(char: str) -> str:
    if unicodedata.category(char) in _UNSHOWN:
        return char.encode("unicode_escape").decode()
    return char
