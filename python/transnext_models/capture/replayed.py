"""Work that is recorded after a few calls, and what is kept of it for each shape."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from ..layers.derived import keeping_derived
from .recorders import Recorder, Work

__all__ = ["LastUsed", "Replayed", "check_graphs"]

T = TypeVar("T")


class Replayed:
    """Work that is done eagerly a few times, then recorded, then replayed.

    Parameters
    ----------
    work : Callable[[], None]
        Works on tensors whose memory stays.
    eager : int
        Calls before it is recorded: allocations and choices of algorithms settle.
    """

    def __init__(self, work: Work, eager: int) -> None:
        self._work = work
        self._eager = eager
        self._replay: Work | None = None
        self._kept: list[Any] = []  # derived from weights, and read by the recording

    def __call__(self, recorder: Recorder) -> None:
        """Do the work."""
        if self._eager:
            self._eager -= 1
            recorder.run(self._work)
            return
        if self._replay is None:
            with keeping_derived() as self._kept:
                self._replay = recorder.record(self._work)
        self._replay()


def check_graphs(graphs: object) -> None:
    """Raise ValueError unless `graphs`, how many are kept, is a positive int."""
    if isinstance(graphs, bool) or not isinstance(graphs, int) or graphs < 1:
        raise ValueError(f"graphs: got {graphs!r}, needs an int of at least 1")


class LastUsed(Generic[T]):
    """So many values by key, those used last.

    Raises
    ------
    ValueError
        `most`, which callers name ``graphs``, is not a positive int.
    """

    def __init__(self, most: int) -> None:
        check_graphs(most)
        self.most = most
        self.values: dict[Hashable, T] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a key, made where there is none."""
        value = self.values.pop(key, None)
        if value is None:
            value = make()
            if len(self.values) == self.most:
                del self.values[next(iter(self.values))]
        self.values[key] = value
        return value
