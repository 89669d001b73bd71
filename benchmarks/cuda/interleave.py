"""Run the cases of a device: results checked, then all candidates timed in interleaved runs."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.cuda import models
from benchmarks.cuda.baselines import Baselines, Wanted, baselines_of, everything
from benchmarks.cuda.cases import sizes_of
from benchmarks.cuda.clock import Clock
from benchmarks.cuda.inputs import Numbers
from benchmarks.cuda.roofline import bound_seconds
from benchmarks.runner.measure import Result
from benchmarks.shapes.cases import Candidate, Case
from benchmarks.shapes.sizes import Shapes

# Largest ||result - oracle|| / ||oracle||; gradients may have twice that.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
_SHORTEST = 0.005  # seconds of one run at least


def run_case(case: Case, clock: Clock, runs: int, wanted: Wanted = everything) -> Iterator[Result]:
    """Yield a result for every candidate; one that fails or is wrong says so on stderr instead.

    Of the candidates only those with a ``wanted`` name enter, and the baseline.
    """
    dtype = getattr(torch, case.dtype)
    if case.what == "models":
        steps = models.steps(case, clock.device, wanted, _report_failure)
    else:
        sizes = sizes_of(case)
        entries = baselines_of(case.subject, sizes, dtype, clock.device, wanted)
        for name, reason in entries.missing.items():
            _report_failure(case, name, reason)
        steps = _checked_steps(case, entries, _oracle(case, entries, sizes, clock.device))
    seconds = interleaved_seconds(case, steps, clock, runs)
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
            bound_seconds(case, clock.name()),
        )


def _oracle(case: Case, entries: Baselines, sizes: Shapes, device: torch.device) -> list[Tensor]:
    """Return the baseline's output and gradients from the same numbers, in float32."""
    exact = baselines_of(case.subject, sizes, torch.float32, device, lambda name: False)
    leaves = [leaf.detach().float().requires_grad_() for leaf in entries.leaves]
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
    case: Case, entries: Baselines, oracle: list[Tensor]
) -> dict[str, Callable[[], object]]:
    steps = {}
    for name, function in entries.functions.items():
        try:
            out = function(*entries.leaves)
            if name in entries.comparable:
                made = (
                    [out, *_gradients(out, entries.leaves)] if case.direction == "both" else [out]
                )
                _check(made, oracle, TOLERANCES[getattr(torch, case.dtype)])
        except Exception as error:  # alternatives fail in ways of their own; the others go on
            _report_failure(case, name, f"{type(error).__name__}: {error}")
            continue
        steps[name] = _step(case, function, entries.leaves, out.detach())
    return steps


def _check(made: list[Tensor], oracle: list[Tensor], tolerance: float) -> None:
    for place, (actual, expected) in enumerate(zip(made, oracle, strict=False)):
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


def interleaved_seconds(
    case: Case, steps: dict[str, Callable[[], object]], clock: Clock, runs: int
) -> dict[str, list[float]]:
    """Return the seconds of every step's runs, which take turns; one that fails is told."""
    repetitions, timed = {}, {}
    for name, step in list(steps.items()):
        try:
            timed[name] = clock.prepared(step)
            clock.seconds(timed[name])  # warm: compiles, allocates
            repetitions[name] = max(1, round(_SHORTEST / max(clock.seconds(timed[name]), 1e-9)))
        except Exception as error:
            _report_failure(case, name, f"{type(error).__name__}: {error}")
    seconds: dict[str, list[float]] = {name: [] for name in repetitions}
    for _ in range(runs):
        for name, count in repetitions.items():
            seconds[name].append(clock.seconds(timed[name], count))
    return seconds


def _report_failure(case: Case, name: str, reason: str) -> None:
    print(f"{case.name}: {name}: {reason.splitlines()[0]}", file=sys.stderr)
