"""What one sees while an epoch trains: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from .speed import Speed, duration, per_second

__all__ = ["LINE_SECONDS", "progress_shown", "warn_of_waiting"]

_SHORT, _MUCH = 20.0, 0.2  # seconds of an epoch that say nothing; a share that matters

LINE_SECONDS = 60.0
"""Between two lines where standard error is no terminal."""


@contextlib.contextmanager
def progress_shown(
    title: str, done: int, total: int, speed: Speed, shown: bool
) -> Iterator[Callable[[], None]]:
    """Yield what is called after each batch.

    Parameters
    ----------
    done, total : int
        Batches of the epoch.
    speed : Speed
        Asked for images per second and the end of the run.
    shown : bool
        False on all processes but the first.
    """
    if not shown:
        yield lambda: None
    elif sys.stderr.isatty():
        with _bar(title, done, total, speed) as advance:
            yield advance
    else:
        yield _Lines(title, done, total, speed)


def warn_of_waiting(epoch: int, workers: int, seconds: float, share: float) -> None:
    """Say so where an epoch's training has spent much of its time on waiting for images."""
    if seconds < _SHORT or share < _MUCH:
        return
    print(
        f"epoch {epoch}: {share:.0%} of the time was spent on waiting for images, which "
        f"--workers {workers} load for each device: the loader limits this run",
        file=sys.stderr,
        flush=True,
    )


@contextlib.contextmanager
def _bar(title: str, done: int, total: int, speed: Speed) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        "{task.fields[speed]}",
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, completed=done, total=total, speed="")

        def advance() -> None:
            progress.update(task, advance=1, speed=_described(speed))

        yield advance


class _Lines:
    """Prints a line when `LINE_SECONDS` have passed since the last one."""

    def __init__(self, title: str, done: int, total: int, speed: Speed) -> None:
        self._title = title
        self._done = done
        self._total = total
        self._speed = speed
        self._printed = time.monotonic()

    def __call__(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._printed < LINE_SECONDS:
            return
        self._printed = now
        print(
            f"{self._title}: batch {self._done} of {self._total} "
            f"({self._done / self._total:.0%}), {_described(self._speed)}",
            file=sys.stderr,
            flush=True,
        )


def _described(speed: Speed) -> str:
    return f"{per_second(speed.images_per_second)}, run ends in {duration(speed.seconds_left)}"
