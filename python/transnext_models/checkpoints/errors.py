"""The one exception every checkpoint function raises."""

from __future__ import annotations

import os


class CheckpointError(ValueError):
    """A weights file that cannot be used; the message names the file and the reason."""


def file_error(path: str | os.PathLike[str], reason: str) -> CheckpointError:
    """Return a `CheckpointError` whose message starts with the file's name."""
    return CheckpointError(f"{os.fspath(path)}: {reason}")
