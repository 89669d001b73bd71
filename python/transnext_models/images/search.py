"""Search folders for images: every folder once, whatever links lead to it, and nothing silently."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from .errors import ImageError
from .formats import is_image_name, readable_suffixes
from .found import FoundImages, LeftOut
from .hidden import is_hidden
from .sources import reason_of

_BROKEN, _HIDDEN, _SPECIAL = "broken as links", "hidden", "no regular files"
_LISTED = "linked to files that are listed"
_SEARCHED = "linked to folders that are searched"

Identity = tuple[int, int] | str  # device and inode; the resolved path where there is no inode


class Folder(NamedTuple):
    """A folder that is searched: what it holds, and whether a link led to it."""

    path: Path
    entries: list[os.DirEntry[str]]
    is_linked: bool


class Search:
    """Image files that were found, and what was met on the way to them.

    Parameters
    ----------
    also : Collection[str]
        Suffixes of other files that are taken as well.
    """

    def __init__(self, also: Collection[str] = ()) -> None:
        self._also = frozenset(also)
        self._paths: dict[Path, None] = {}
        self._problems: dict[str, ImageError] = {}
        self._left_out: dict[str, LeftOut] = {}
        # Of the files, those behind links: in a linked folder, and linked themselves.
        self._in_linked: set[Path] = set()
        self._linked: set[Path] = set()
        self._searched: set[Identity] = set()

    def add(self, path: Path) -> None:
        """Take a file."""
        self._paths[path] = None

    def fail(self, name: str | os.PathLike[str], reason: str) -> None:
        """Note, once, what could not be looked at."""
        problem = ImageError(name, reason)
        self._problems.setdefault(str(problem), problem)

    @property
    def problem_count(self) -> int:
        """How many different problems there were."""
        return len(self._problems)

    def found(self) -> FoundImages:
        """Return what was collected; of a file and links to it, the file."""
        behind_links = self._in_linked | self._linked
        if behind_links:
            listed = {_identity(path) for path in self._paths if path not in behind_links}
            for group in (self._in_linked - self._linked, self._linked):
                for path in [path for path in self._paths if path in group]:
                    if (identity := _identity(path)) in listed:
                        self._leave_out(_LISTED, path)
                        del self._paths[path]
                    listed.add(identity)
        problems, left_out = self._problems.values(), self._left_out.values()
        return FoundImages(list(self._paths), list(problems), list(left_out))

    def folder(self, root: Path) -> None:
        """Take the images in a folder that was named, and in all folders below."""
        problems = self.problem_count
        if not self.take_all_in(root) and self.problem_count == problems:
            looked_for = ", ".join(suffix[1:] for suffix in readable_suffixes())
            self.fail(root, f"a folder without images ({looked_for})")

    def take_all_in(self, root: Path) -> bool:
        """Take the images in a folder and below; whether there are any, or were taken before."""
        if _identity(root) in self._searched:
            return True
        files = [
            Path(entry.path)
            for folder in self.walk(root, self._searched)
            for entry in folder.entries
            if self.is_wanted(entry, is_linked=folder.is_linked)
        ]
        for path in sorted(files):
            self.add(path)
        return bool(files)

    def walk(self, root: Path, seen: set[Identity]) -> Iterator[Folder]:
        """Yield a folder and those below that are not hidden, none that is `seen`.

        Links come last, so that what they lead to is found where it is.
        """
        waiting, links = [(root, False)], deque[tuple[Path, bool]]()
        while waiting or links:
            path, is_linked = waiting.pop() if waiting else links.popleft()
            if (identity := _identity(path)) in seen:
                if path.is_symlink():
                    self._leave_out(_SEARCHED, path)
                continue
            seen.add(identity)
            folder = Folder(path, self.entries(path), is_linked)
            yield folder
            for entry in folder.entries:
                if kind_of(entry) == "folder" and not is_hidden(entry.name):
                    if entry.is_symlink():
                        links.append((Path(entry.path), True))
                    else:
                        waiting.append((Path(entry.path), is_linked))

    def entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """Return what a folder holds, by name; nothing, and a problem, where that fails."""
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.fail(folder, f"a folder that cannot be searched: {reason_of(error)}")
            return []

    def is_wanted(
        self,
        entry: os.DirEntry[str],
        *,
        is_linked: bool = False,
        any_suffix: bool = False,
        even_hidden: bool = False,
    ) -> bool:
        """Whether an entry is a file to be taken; if not, note why."""
        path = Path(entry.path)
        kind = kind_of(entry)
        if is_hidden(entry.name) and not even_hidden:
            self._leave_out(_HIDDEN, path)
        elif kind == "locked":
            self.fail(path, reason_of(PermissionError()))
        elif kind == "broken" and (any_suffix or self._is_looked_for(path)):
            self.fail(path, "a link that leads nowhere")
        elif kind == "broken":
            self._leave_out(_BROKEN, path)
        elif kind == "special":
            self._leave_out(_SPECIAL, path)
        elif kind == "file" and (any_suffix or self._is_looked_for(path)):
            if is_linked and path not in self._paths:
                self._in_linked.add(path)
            if entry.is_symlink() and path not in self._paths:
                self._linked.add(path)
            return True
        elif kind == "file":
            suffix = path.suffix.lower()
            self._leave_out(f"of suffix {suffix}" if suffix else "without a suffix")
        return False

    def _is_looked_for(self, path: Path) -> bool:
        return is_image_name(path) or path.suffix.lower() in self._also

    def _leave_out(self, reason: str, path: Path | None = None) -> None:
        left_out = self._left_out.setdefault(reason, LeftOut(reason))
        left_out.count += 1
        if path is not None:
            left_out.paths.append(path)


def kind_of(entry: os.DirEntry[str]) -> str:
    """Return what an entry, or what it links to, is: folder, file, special, locked, broken."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        entry.stat()
        return "special"
    except PermissionError:
        return "locked"
    except OSError:  # leads nowhere, or to itself
        return "broken"


def _identity(path: Path) -> Identity:
    """Return what is the same for all names of one file or folder."""
    try:
        status = path.stat()
    except OSError:
        return str(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)
