"""Random numbers of a pipeline: drawn and noted, or given.

A pipeline asks for its numbers one by one. From a generator of the sample's own (see
`training.random_numbers`) they are the same however a run got there; what was drawn is noted, and
given again it makes the same sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

__all__ = ["Draws", "GivenDraws"]


class Draws:
    """Numbers from a generator.

    Parameters
    ----------
    generator : np.random.Generator
        Of the sample.

    Attributes
    ----------
    taken : list[float]
        All that were drawn, in order.
    """

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self.taken: list[float] = []

    def uniform(self, low: float, high: float) -> float:
        """Return a number from [low, high)."""
        return self._note(self._generator.uniform(low, high))

    def integer(self, low: int, high: int) -> int:
        """Return a whole number from low to high - 1."""
        return int(self._note(int(self._generator.integers(low, high))))

    def heads(self) -> bool:
        """Return True or False, with even odds."""
        return bool(self.integer(0, 2))

    def _note(self, value: float) -> float:
        self.taken.append(value)
        return value


class GivenDraws(Draws):
    """Numbers that are given, in the order in which a pipeline asks for them.

    Parameters
    ----------
    values : Sequence[float]
        At least as many as it asks for.
    """

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__(np.random.default_rng(0))
        self._values: Iterator[float] = iter(values)

    def uniform(self, low: float, high: float) -> float:
        """Return the next number; ValueError where it is not in [low, high)."""
        return self._next(low, high)

    def integer(self, low: int, high: int) -> int:
        """Return the next number; ValueError where it is not from low to high - 1."""
        return int(self._next(low, high))

    def _next(self, low: float, high: float) -> float:
        value = next(self._values, None)
        if value is None or not low <= value < high:
            raise ValueError(f"draws: got {value} at {len(self.taken)}, needs {low} ≤ x < {high}")
        return self._note(value)
