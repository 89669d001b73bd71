"""How fast a run goes, and when it will end, from what this process has seen of it."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator

__all__ = ["Speed", "duration", "per_second"]

_RECENT = 50  # batches


class Speed:
    """Counts batches as they are done.

    Parameters
    ----------
    images_per_batch : int
        Of all processes together.
    clock : Callable[[], float]
        Seconds.
    """

    def __init__(
        self, images_per_batch: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._images = images_per_batch
        self._clock = clock
        self._began = clock()
        self._done = 0
        self._left = 0
        self._recent: deque[float] = deque(maxlen=_RECENT + 1)
        self._epoch = (0.0, 0)
        self._waited = self._stepped = 0.0

    def begin(self, left: int) -> None:
        """Start with so many batches of the run left."""
        self._began = self._clock()
        self._done, self._left = 0, left

    def begin_epoch(self) -> None:
        """Start to train for an epoch: what came before is no time of its batches."""
        now = self._clock()
        self._recent.clear()
        self._recent.append(now)
        self._epoch = (now, 0)
        self._waited = self._stepped = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for a batch."""
        began = self._clock()
        yield
        self._waited += self._clock() - began

    @contextlib.contextmanager
    def stepping(self) -> Iterator[None]:
        """Count the time of the block as the work of a batch, as far as the host does it."""
        began = self._clock()
        yield
        self._stepped += self._clock() - began

    @property
    def spent(self) -> tuple[float, float]:
        """Seconds of the epoch so far that were spent on waiting for batches and on their work."""
        return self._waited, self._stepped

    def batch_done(self) -> None:
        """Count a batch."""
        self._done += 1
        self._left -= 1
        self._recent.append(self._clock())
        self._epoch = (self._epoch[0], self._epoch[1] + 1)

    @property
    def images_per_second(self) -> float:
        """Of the last batches; 0 before the first."""
        return self._per_second(len(self._recent) - 1, self._recent[0] if self._recent else 0.0)

    @property
    def epoch_images_per_second(self) -> float:
        """Of the epoch's batches that this process has trained on."""
        return self._per_second(self._epoch[1], self._epoch[0])

    @property
    def seconds_left(self) -> float | None:
        """Of the run, if it goes on as fast, validations and checkpoints included."""
        if not self._done:
            return None
        return (self._clock() - self._began) / self._done * max(self._left, 0)

    @property
    def waited(self) -> tuple[float, float]:
        """Seconds of the epoch's training so far, and the share of them spent on waiting."""
        seconds = self._clock() - self._epoch[0]
        return seconds, self._waited / seconds if seconds > 0 else 0.0

    def _per_second(self, batches: int, since: float) -> float:
        seconds = self._clock() - since
        return self._images * batches / seconds if batches > 0 and seconds > 0 else 0.0


def per_second(images: float) -> str:
    """Write images per second: ``1,234 images/s``, ``12.3 images/s``."""
    return f"{images:,.0f} images/s" if images >= 100 else f"{images:.3g} images/s"


def duration(seconds: float | None) -> str:
    """Write seconds as people do: ``0:45``, ``3:12:05``, ``2 days 3:12:05``."""
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    text = f"{hours}:{minutes:02}:{rest:02}" if hours or days else f"{minutes}:{rest:02}"
    return f"{days} day{'s' if days > 1 else ''} {text}" if days else text
