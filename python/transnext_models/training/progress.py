"""A bar on a terminal while an epoch trains; nothing where standard error is a file."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

__all__ = ["progress_bar"]


@contextlib.contextmanager
def progress_bar(title: str, done: int, total: int, shown: bool) -> Iterator[Callable[[], None]]:
    """Yield what is called after each batch.

    Parameters
    ----------
    done, total : int
        Batches.
    shown : bool
        False on all processes but the first.
    """
    if not (shown and sys.stderr.isatty()):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, completed=done, total=total)
        yield lambda: progress.advance(task)
