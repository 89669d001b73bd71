"""What ``run.py --device`` does: cases one by one, rows and tables as for a CPU."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from benchmarks.cuda.cases import device_cases
from benchmarks.cuda.clock import Clock
from benchmarks.cuda.interleave import run_case
from benchmarks.runner import report
from benchmarks.runner.measure import Result


@dataclass(frozen=True)
class Options:
    """What to measure, and how.

    Attributes
    ----------
    words : list of str
        The cases whose name has all of them.
    candidates : list of str
        The candidates whose name has one of them, beside the baseline; empty for all.
    graphs : bool
        Time replays of CUDA graphs.
    """

    words: list[str]
    candidates: list[str]
    runs: int
    graphs: bool
    folder: Path

    def wants(self, candidate: str) -> bool:
        """Whether a candidate of this name is asked for."""
        return not self.candidates or any(word in candidate for word in self.candidates)


def find_device(name: str) -> torch.device:
    """Return the device of a ``--device``.

    Raises
    ------
    SystemExit
        There is no such device here.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SystemExit(f"--device: got {name!r}, needs a torch device: {error}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"--device: got {name!r}, but torch sees no CUDA device")
    return device


def run(name: str, options: Options, list_only: bool) -> None:
    """Measure cases on the device ``name``.

    Raises
    ------
    SystemExit
        There is no such device here, or no case has these words.
    """
    cases = [case for case in device_cases() if all(word in case.name for word in options.words)]
    if not cases:
        words = " ".join(options.words)
        raise SystemExit(f"--only: no case has {words!r} in its name; see --list")
    if list_only:
        print("\n".join(case.name for case in cases))
        return
    device = find_device(name)
    if options.graphs and device.type != "cuda":
        raise SystemExit(f"--graphs: needs a CUDA device, got --device {name}")
    clock = Clock(device, options.graphs)
    where = report.Machine.of_device(clock.name() + (" graphs" if options.graphs else ""))
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    results: list[Result] = []
    paths: dict[Path, None] = {}
    for place, case in enumerate(cases):
        print(f"[{place + 1}/{len(cases)}] {case.name}", file=sys.stderr, flush=True)
        measured = list(run_case(case, clock, options.runs, options.wants))
        results += measured
        if measured:  # after every case, so that a long run that is stopped keeps what it has
            paths |= dict.fromkeys(report.write_csv(measured, options.folder, where, when))
        if device.type == "cuda":
            torch.cuda.empty_cache()
    report.print_paths(list(paths))
    report.print_results(results, where)
