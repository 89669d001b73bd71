"""Time operators and models against the published formulation.

    python benchmarks/run.py                        # everything, tens of minutes
    python benchmarks/run.py --quick                # the most telling cases, a few runs
    python benchmarks/run.py --only conv_glu        # cases whose name has all these words
    python benchmarks/run.py --list                 # names of the cases
    python benchmarks/run.py --device cuda          # every backend on a GPU, CUDA events
    python benchmarks/run.py --device cuda --graphs # the kernels without their launches

Every candidate runs in a process of its own and their runs are interleaved, so that what else the
machine does slows all alike. Rows go to ``benchmarks/results/<what>-<dtype>-<machine>.csv`` with a
picture; the tables come last. What the numbers mean: docs/performance.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import sys
from datetime import datetime, timezone
from pathlib import Path

import torch

if not __package__:  # run as a file: the package's folder is on the path, its parent is needed
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.shapes.cases import BOUND, OURS, OURS_BF16, PUBLISHED, Case, all_cases


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="cases whose name has all these")
    parser.add_argument("--quick", action="store_true", help="the most telling cases, few runs")
    parser.add_argument("--list", action="store_true", help="print the cases' names and end")
    parser.add_argument("--runs", type=int, help="runs of each candidate (default 11; quick 5)")
    parser.add_argument("--budget", type=float, help="seconds for a case's runs (60; quick 15)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="also torch.compile of published")
    parser.add_argument("--no-peers", action="store_true", help="leave timm's models out")
    parser.add_argument("--ours-only", action="store_true", help="no candidate but published, ours")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--device", help="measure on this torch device instead, as cuda or cuda:1")
    parser.add_argument(
        "--candidates", nargs="+", default=[],
        help="with --device: the baseline, and candidates whose name has one of these",
    )  # fmt: skip
    parser.add_argument(
        "--graphs", action="store_true", help="with --device: replays of CUDA graphs, no launches"
    )
    return parser.parse_args()


def selected(options: argparse.Namespace) -> list[Case]:
    """Return the cases that the command line asks for."""
    peers = not options.no_peers and importlib.util.find_spec("timm") is not None
    cases = [
        case
        for case in all_cases(options.compile, peers)
        if all(word in case.name for word in options.only)
        and (not options.quick or "quick" in case.groups)
    ]
    if options.ours_only:
        kept = (PUBLISHED, OURS, OURS_BF16, BOUND)
        cases = [
            dataclasses.replace(case, candidates=tuple(c for c in case.candidates if c in kept))
            for case in cases
        ]
    if not cases:
        raise SystemExit(f"--only: no case has {' '.join(options.only)!r} in its name; see --list")
    return cases


def main() -> None:
    """Measure the cases that the command line asks for."""
    options = arguments()
    if options.device:
        from benchmarks.cuda import command

        runs = options.runs or 11
        how = command.Options(
            options.only, options.candidates, runs, options.graphs, options.results
        )
        command.run(options.device, how, options.list)
        return
    if options.candidates or options.graphs:
        raise SystemExit("--candidates, --graphs: for --device only")
    cases = selected(options)
    if options.list:
        print("\n".join(case.name for case in cases))
        return
    # Imported here, so that the processes that workers are forked from do not load them.
    from benchmarks.runner import report
    from benchmarks.runner.measure import Result, measure

    torch.set_num_threads(options.threads)
    runs = options.runs or (5 if options.quick else 11)
    budget = options.budget or (15.0 if options.quick else 60.0)
    here = report.Machine.of_cpu(options.threads)
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    results: list[Result] = []
    paths: dict[Path, None] = {}
    for place, case in enumerate(cases):
        print(f"[{place + 1}/{len(cases)}] {case.name}", file=sys.stderr, flush=True)
        measured = measure(case, runs, budget, options.threads)
        bounds = [r.median for r in measured if r.candidate.code in ("gemms", "bound")]
        measured = [
            dataclasses.replace(result, bound=bounds[0] if bounds else None) for result in measured
        ]
        results += measured
        # After every case, so that a long run that is stopped keeps what it has.
        paths |= dict.fromkeys(report.write_csv(measured, options.results, here, when))
    report.print_paths(list(paths))
    report.print_results(results, here)


if __name__ == "__main__":
    main()
