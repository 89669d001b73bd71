"""What the package is to reach against the published formulation, and whether it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cases import OURS, OURS_BF16, PEERS, PRODUCTS, PUBLISHED, TUNED, Case
from measure import Result

_Value = Callable[[Result], float | None]


@dataclass(frozen=True)
class Target:
    """One bound: a ratio of two candidates' values, or a value, and how it may lie to a limit."""

    text: str
    measured: float
    limit: float
    at_least: bool

    @property
    def met(self) -> bool:
        """Whether the bound holds."""
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


def targets(results: list[Result]) -> Iterator[Target]:
    """Yield every target whose case was measured."""
    cases = {result.case.name: result.case for result in results}
    for name, case in cases.items():
        mine = {r.candidate.name: r for r in results if r.case.name == name}
        yield from (_operator if case.what == "operators" else _model)(case, mine)


def _ratio(
    text: str,
    mine: dict[str, Result],
    upper: str,
    lower: str,
    limit: float,
    at_least: bool = True,
    value: _Value = lambda result: result.median,
) -> Iterator[Target]:
    if upper in mine and lower in mine:
        above, below = value(mine[upper]), value(mine[lower])
        if above is not None and below:
            yield Target(text, above / below, limit, at_least)


def _peak(result: Result) -> float | None:
    return None if result.peak is None else float(result.peak)


def _operator(case: Case, mine: dict[str, Result]) -> Iterator[Target]:
    speed = {
        ("aggregated_attention", "forward"): 10.0,
        ("aggregated_attention", "both"): 6.0,
        ("conv_glu", "forward"): 4.0,
        ("conv_glu", "backward"): 3.0,
    }.get((case.subject, case.direction))
    if speed is not None:
        yield from _ratio(f"{case.name}: speed", mine, PUBLISHED.name, OURS.name, speed)
    ours = mine.get(OURS.name)
    if case.subject == "aggregated_attention" and ours is not None and ours.floor:
        yield Target(f"{case.name}: over its floor", ours.median / ours.floor, 2.0, False)


def _model(case: Case, mine: dict[str, Result]) -> Iterator[Target]:
    ours = OURS_BF16.name if case.dtype == "bfloat16" else OURS.name

    def speed(limit: float, over: str = PUBLISHED.name) -> Iterator[Target]:
        yield from _ratio(f"{case.name}: speed of {over}", mine, over, ours, limit)

    def peak(limit: float) -> Iterator[Target]:
        text = f"{case.name}: peak memory of {PUBLISHED.name}"
        yield from _ratio(text, mine, ours, PUBLISHED.name, limit, at_least=False, value=_peak)

    if case.dense:
        yield from speed(10.0 if case.dense == "interpolate" else 60.0)
        yield from peak(1 / 6)
        if ours in mine:
            yield Target(f"{case.name}: seconds to build", mine[ours].build_seconds, 1.0, False)
    elif case.direction == "both":
        yield from speed(3.5)
        yield from peak(0.5)
    elif case.dtype == "bfloat16":
        yield from speed(9.0)
    elif case.size == (64, 64):
        yield from speed(3.0)
    elif case.batch == 1:
        yield from speed(4.5)
    else:
        yield from speed(5.5)
        yield from speed(3.7, TUNED.name)
        for peer in PEERS:
            yield from speed(1.5, peer)
        text = f"{case.name}: over its products alone"
        yield from _ratio(text, mine, ours, PRODUCTS.name, 1.35, at_least=False)
