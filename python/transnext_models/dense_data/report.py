"""What reading did to annotations that are not as they should be: counted, and the first named."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Report", "Treatment"]

_SHOWN = 3


@dataclass(slots=True)
class Treatment:
    """One kind of treatment.

    Attributes
    ----------
    count : int
        How many entries it was done to.
    first : list[str]
        Where the first of them are.
    """

    count: int = 0
    first: list[str] = field(default_factory=list)


class Report:
    """Treatments by what was done, in the order in which they were met.

    Attributes
    ----------
    treatments : dict[str, Treatment]
        The key reads after a number: ``boxes reach beyond their image: clipped``.
    """

    def __init__(self) -> None:
        self.treatments: dict[str, Treatment] = {}

    def note(self, what: str, where: str, count: int = 1) -> None:
        """Count a treatment of the entry `where`."""
        treatment = self.treatments.setdefault(what, Treatment())
        treatment.count += count
        if len(treatment.first) < _SHOWN:
            treatment.first.append(where)

    def count(self, what: str) -> int:
        """Return how many entries had the treatments whose text contains `what`."""
        return sum(one.count for text, one in self.treatments.items() if what in text)

    def lines(self) -> list[str]:
        """Return one line for each treatment, for people."""
        return [
            f"{one.count:,} {what} ({', '.join(one.first)}{', …' * (one.count > len(one.first))})"
            for what, one in self.treatments.items()
        ]
