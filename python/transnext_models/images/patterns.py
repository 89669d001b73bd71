"""Patterns of file names: ``*``, ``?``, ``[]`` and ``**``, by the same search as folders."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from .hidden import is_hidden
from .search import Search, kind_of
from .sources import reason_of

_WILDCARDS = frozenset("*?[")
_FOLDERS = "**"

# An entry, and whether the pattern says so itself that it may be hidden.
Match = tuple["os.DirEntry[str]", bool]


def has_wildcards(name: str) -> bool:
    """Whether `name` can be a pattern."""
    return not _WILDCARDS.isdisjoint(name)


def take_matching(pattern: Path, search: Search) -> None:
    """Take the files that match a pattern, and note a problem where there are none.

    A pattern that says a suffix means it; of others, such as ``photos/*``, the images are meant,
    also those in matching folders. ``*`` does not match hidden names.
    """
    problems = search.problem_count
    says_suffix = bool(pattern.suffix) and not has_wildcards(pattern.suffix)
    matches = {match[0].path: match for match in _all_matches(pattern, search)}
    files, folders = [], []
    for entry, may_hide in matches.values():
        if kind_of(entry) == "folder":
            folders.append(Path(entry.path))
        elif search.is_wanted(entry, any_suffix=says_suffix, even_hidden=may_hide):
            files.append(Path(entry.path))
    for path in sorted(files):
        search.add(path)
    found = bool(files)
    if not says_suffix:
        for folder in sorted(folders):
            found = search.take_all_in(folder) or found
    if not found and search.problem_count == problems:
        search.fail(pattern, "no image matches this pattern")


def _all_matches(pattern: Path, search: Search) -> Iterator[Match]:
    parts = pattern.parts
    literal = next(index for index, part in enumerate(parts) if has_wildcards(part))
    start = Path(*parts[:literal])
    try:
        start.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        search.fail(start, f"a folder that cannot be searched: {reason_of(error)}")
        return
    yield from _matches(start, parts[literal:], search)


def _matches(folder: Path, parts: Sequence[str], search: Search) -> Iterator[Match]:
    """Yield what matches the last of `parts`, behind folders that match the others."""
    part, rest = parts[0], parts[1:]
    if part == _FOLDERS:
        for below in search.walk(folder, set()):
            if rest:
                yield from _matches(below.path, rest, search)
            else:
                yield from ((entry, False) for entry in below.entries if kind_of(entry) != "folder")
        return
    for entry in search.entries(folder):
        # A name that exists as it is written is meant, whatever brackets are in it.
        is_named = entry.name == part or (part.startswith(".") and has_wildcards(part))
        if entry.name != part and not _is_match(entry.name, part):
            continue
        if not rest:
            yield entry, is_named
        elif kind_of(entry) == "folder" and (is_named or not is_hidden(entry.name)):
            yield from _matches(Path(entry.path), rest, search)


def _is_match(name: str, part: str) -> bool:
    if name.startswith(".") and not part.startswith("."):
        return False
    return fnmatch.fnmatch(name, part)
