"""Distinguish a malicious file from one that merely stores objects beside its weights."""

from __future__ import annotations

import os

from .errors import file_error
from .pickle_values import Name

# What no weights file has a use for calling: it acts on the machine or runs code. Left out is what
# training libraries do leave in their files, such as `getattr` for a bound method.
_COMMAND_MODULES = frozenset(
    (
        "asyncio", "cProfile", "commands", "ctypes", "importlib", "multiprocessing", "nt", "os",
        "pdb", "pip", "posix", "profile", "pty", "runpy", "shutil", "signal", "socket",
        "subprocess", "sys", "timeit", "urllib", "webbrowser",
    )
)  # fmt: skip
_COMMAND_BUILTINS = frozenset(
    ["__import__", "breakpoint", "compile", "eval", "exec", "execfile", "input", "open"]
)


class Commands:
    """Watches for calls that only a file made to do harm has; none is ever made here."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._found: Name | None = None

    def note(self, function: object) -> None:
        """Look at a function that whoever unpickled the file would call."""
        if not isinstance(function, Name):
            return
        package = function.module.partition(".")[0]
        if package in _COMMAND_MODULES or (
            package in ("builtins", "__builtin__") and function.name in _COMMAND_BUILTINS
        ):
            self._found = self._found or function

    def refuse(self) -> None:
        """Raise CheckpointError if there was such a call."""
        if self._found is not None:
            raise file_error(
                self._path,
                f"malicious: whoever unpickles it runs {str(self._found)[:80]} (not run here), "
                "which no weights file has a use for; get the weights from their publisher",
            )
