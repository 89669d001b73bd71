"""Run the cases of a device: results checked, then all candidates timed in turns."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from cases import Candidate, Case
from device import models
from device.candidates import Contest, Wanted, contest, everything
from device.cases import sizes_of
from device.clock import Clock
from device.floors import floor_seconds
from device.inputs import Numbers
from measure import Result
from operator_steps import Shapes

# Most of ||result - truth|| / ||truth||; gradients may have twice that.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
_SHORTEST = 0.005  # seconds of one turn at least


def run_case(case: Case, clock: Clock, turns: int, wanted: Wanted = everything) -> Iterator[Result]:
    """Yield a result for every candidate; one that fails or is wrong says so on stderr instead.

    Of the candidates only those with a ``wanted`` name enter, and the baseline.
    """
    dtype = getattr(torch, case.dtype)
    if case.what == "models":
        steps = models.steps(case, clock.device, wanted, _tell)
    else:
        sizes = sizes_of(case)
        fight = contest(case.subject, sizes, dtype, clock.device, wanted)
        for name, reason in fight.missing.items():
            _tell(case, name, reason)
        steps = _checked_steps(case, fight, _truth(case, fight, sizes, clock.device))
    seconds = _in_turns(case, steps, clock, turns)
    for name, values in seconds.items():
        low, median, high = values[0], statistics.median(values), values[0]
        if len(values) > 1:
            low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        peak = clock.peak_bytes(steps[name])
        yield Result(
            case,
            Candidate(name, "graph" if clock.graphs else "device", case.dtype),
            low,
            median,
            high,
            len(values),
            peak,
            0.0,
            None,
            "",
            floor_seconds(case, clock.name()),
        )


def _truth(case: Case, fight: Contest, sizes: Shapes, device: torch.device) -> list[Tensor]:
    """Return what the baseline makes of the same numbers in float32: output, then gradients."""
    exact = contest(case.subject, sizes, torch.float32, device, lambda name: False)
    leaves = [leaf.detach().float().requires_grad_() for leaf in fight.leaves]
    out = next(iter(exact.functions.values()))(*leaves)
    return [out, *_gradients(out, leaves)]


def _gradients(out: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    # Cells outside the image have the logit -inf, which no gradient may reach.
    d_out = Numbers(out.device, seed=1).normal(*out.shape).to(out.dtype)
    d_out = torch.where(out.isfinite(), d_out, 0)
    return list(torch.autograd.grad(out, leaves, d_out))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return ``||actual - expected|| / ||expected||`` over the finite entries of ``expected``."""
    actual, expected = actual.detach(), expected.detach()
    finite = expected.isfinite()
    difference = torch.where(finite, actual.double() - expected.double(), 0.0)
    scale = torch.where(finite, expected.double(), 0.0).norm()
    return float(difference.norm() / scale.clamp(min=1e-30))


def _checked_steps(
    case: Case, fight: Contest, truth: list[Tensor]
) -> dict[str, Callable[[], object]]:
    steps = {}
    for name, function in fight.functions.items():
        try:
            out = function(*fight.leaves)
            if name in fight.comparable:
                made = [out, *_gradients(out, fight.leaves)] if case.direction == "both" else [out]
                _check(made, truth, TOLERANCES[getattr(torch, case.dtype)])
        except Exception as error:  # alternatives fail in ways of their own; the others go on
            _tell(case, name, f"{type(error).__name__}: {error}")
            continue
        steps[name] = _step(case, function, fight.leaves, out.detach())
    return steps


def _check(made: list[Tensor], truth: list[Tensor], tolerance: float) -> None:
    for place, (actual, expected) in enumerate(zip(made, truth, strict=False)):
        error, most = relative_error(actual, expected), tolerance * (2 if place else 1)
        if not error <= most:
            what = f"the gradient of input {place}" if place else "the result"
            raise ArithmeticError(f"{what} is off by {error:.1e}, more than {most:.1e}")


def _step(
    case: Case, function: Callable[..., Tensor], leaves: list[Tensor], out: Tensor
) -> Callable[[], object]:
    if case.direction == "forward":

        def forward() -> object:
            with torch.inference_mode():
                return function(*leaves)

        return forward
    d_out = torch.where(out.isfinite(), torch.randn_like(out), 0)
    return lambda: torch.autograd.grad(function(*leaves), leaves, d_out)


def _in_turns(
    case: Case, steps: dict[str, Callable[[], object]], clock: Clock, turns: int
) -> dict[str, list[float]]:
    repetitions, timed = {}, {}
    for name, step in list(steps.items()):
        try:
            timed[name] = clock.prepared(step)
            clock.seconds(timed[name])  # warm: compiles, allocates
            repetitions[name] = max(1, round(_SHORTEST / max(clock.seconds(timed[name]), 1e-9)))
        except Exception as error:
            _tell(case, name, f"{type(error).__name__}: {error}")
    seconds: dict[str, list[float]] = {name: [] for name in repetitions}
    for _ in range(turns):
        for name, count in repetitions.items():
            seconds[name].append(clock.seconds(timed[name], count))
    return seconds


def _tell(case: Case, name: str, reason: str) -> None:
    print(f"{case.name}: {name}: {reason.splitlines()[0]}", file=sys.stderr)
