"""Find image files by the names that a user gives: files, folders, patterns."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable
from pathlib import Path

from .found import FoundImages
from .patterns import has_wildcards, take_matching
from .search import Search
from .sources import reason_of
from .streams import STANDARD_INPUT

Name = str | os.PathLike[str]


def find_images(names: Name | Iterable[Name], also: Collection[str] = ()) -> FoundImages:
    """Return the image files that `names` stand for.

    Parameters
    ----------
    names : Name | Iterable[Name]
        One name or several. Files and pipes are taken as they are, whatever their suffix; ``-`` is
        standard input. Folders are searched, with all folders below and those that they link to,
        for files with an image's suffix; what is hidden is left out, unless it is named itself.
        Patterns have ``*``, ``?``, ``[]`` and ``**``; a name that exists is no pattern. The files
        of one folder or pattern are sorted by name.
    also : Collection[str]
        Suffixes in lower case, such as ``.mp4``, of other files that are looked for as well.

    Returns
    -------
    FoundImages
        No file twice; of a file and links to it that were searched for, the file.
    """
    search = Search(also)
    for name in [names] if isinstance(names, (str, os.PathLike)) else names:
        _find(os.fspath(name), search)
    return search.found()


def _find(name: str, search: Search) -> None:
    path = Path(name)
    mode, reason = _look(name)
    if mode is None and name.startswith("~"):
        path = Path(os.path.expanduser(name))
        mode, reason = _look(path)
    if not name:  # an unset variable in a shell, not the working folder
        search.fail(name, "an empty name")
    elif name == STANDARD_INPUT:
        search.add(path)
    elif mode is None and has_wildcards(str(path)):
        take_matching(path, search)
    elif mode is None:
        search.fail(name, reason)
    elif stat.S_ISDIR(mode):
        search.folder(path)
    elif stat.S_ISBLK(mode):
        search.fail(name, "a device, not an image")
    else:
        # Path makes "-" of "./-", which means another thing.
        search.add(path if str(path) != STANDARD_INPUT else path.absolute())


def _look(path: Name) -> tuple[int | None, str]:
    """Return the mode of what has this name; None and why, if nothing can be seen there."""
    try:
        return os.stat(path).st_mode, ""
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            return None, "a link that leads nowhere"
        return None, "no such file or folder"
    except OSError as error:
        return None, reason_of(error)
    except ValueError:  # a zero in it
        return None, "no file can have such a name"
