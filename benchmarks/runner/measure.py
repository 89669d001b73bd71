"""Run a case: interleaved runs of all candidates, medians and quartiles, peak memory."""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import dataclass

from benchmarks.runner.workers import Worker, WorkerError
from benchmarks.shapes.cases import Candidate, Case

_SHORTEST = 0.02  # seconds of one run at least; shorter steps are repeated within it
_WARM = 0.1  # seconds of a step below which what other processes left in the caches counts
_LONG = 10.0  # seconds from which on a first step needs no warm-up and counts as a measurement


@dataclass(frozen=True)
class Result:
    """What one candidate took for a case.

    Attributes
    ----------
    low, median, high : float
        Quartiles of the seconds of a step over the runs.
    peak : int | None
        Bytes resident above the parameters; None where the system does not report_failure.
    build_seconds, build_peak
        The same of building the candidate.
    bound : float | None
        Roofline bound of an operator, or GEMM time of a model, in seconds.
    """

    case: Case
    candidate: Candidate
    low: float
    median: float
    high: float
    runs: int
    peak: int | None
    build_seconds: float
    build_peak: int | None
    note: str
    bound: float | None = None


def measure(case: Case, runs: int, budget: float, threads: int) -> list[Result]:
    """Return one result per candidate that ran; failures are reported on stderr.

    Parameters
    ----------
    runs : int
        Most runs of each candidate.
    budget : float
        Seconds that the runs of all candidates may take together, but for the first.
    """
    workers: list[Worker] = []
    try:
        for candidate in case.candidates:
            try:
                workers.append(Worker(case, candidate, threads))
            except WorkerError as error:
                _report_failure(case, candidate, error)
        return _interleaved(case, workers, runs, budget)
    finally:
        for worker in workers:
            worker.close()


def _interleaved(case: Case, workers: list[Worker], runs: int, budget: float) -> list[Result]:
    first: dict[Worker, float] = {}
    for worker in workers:
        try:
            first[worker] = worker.run()
            # The first step of what torch.compile makes is the compilation.
            if first[worker] < _LONG or worker.candidate.compiled:
                first[worker] = worker.run()
        except WorkerError as error:
            _report_failure(case, worker.candidate, error)
    counts = {worker: max(1, math.ceil(_SHORTEST / seconds)) for worker, seconds in first.items()}
    warm_ups = {worker: 1 if seconds < _WARM else 0 for worker, seconds in first.items()}
    seconds = {worker: [value] if value >= _LONG else [] for worker, value in first.items()}
    # What is too long for several runs within the budget stays with that one measurement.
    again = [worker for worker, value in first.items() if value < max(_LONG, budget / 3)]
    round_seconds = sum(first[worker] * counts[worker] for worker in again)
    for _ in range(max(3, min(runs, int(budget / max(round_seconds, 1e-9))))):
        for worker in again:
            seconds[worker].append(worker.run(counts[worker], warm_ups[worker]))
    return [_result(case, worker, values) for worker, values in seconds.items()]


def _result(case: Case, worker: Worker, runs: list[float]) -> Result:
    values = [seconds * worker.built.fraction for seconds in runs]
    low = high = values[0]
    if len(values) > 1:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    built = worker.built
    return Result(
        case,
        worker.candidate,
        low,
        statistics.median(values),
        high,
        len(values),
        worker.peak(),
        built.seconds,
        built.peak,
        built.note,
    )


def _report_failure(case: Case, candidate: Candidate, error: WorkerError) -> None:
    print(f"{case.name}: {candidate.name} failed:\n{error}", file=sys.stderr)
