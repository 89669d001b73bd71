"""What ``run.py --device`` does: cases in turn, rows and tables as for a CPU."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from pathlib import Path

import torch

import report
from device.cases import device_cases
from device.clock import Clock
from device.race import run_case
from measure import Result


def run(name: str, words: list[str], turns: int, folder: Path, list_only: bool) -> None:
    """Measure the cases whose name has all ``words`` on the device ``name``.

    Raises
    ------
    SystemExit
        There is no such device here, or no case has these words.
    """
    cases = [case for case in device_cases() if all(word in case.name for word in words)]
    if not cases:
        raise SystemExit(f"--only: no case has {' '.join(words)!r} in its name; see --list")
    if list_only:
        print("\n".join(case.name for case in cases))
        return
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SystemExit(f"--device: got {name!r}, needs a torch device: {error}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"--device: got {name!r}, but torch sees no CUDA device")
    clock = Clock(device)
    where = report.Machine.of_device(clock.name())
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    results: list[Result] = []
    paths: dict[Path, None] = {}
    for place, case in enumerate(cases):
        print(f"[{place + 1}/{len(cases)}] {case.name}", file=sys.stderr, flush=True)
        measured = list(run_case(case, clock, turns))
        results += measured
        if measured:  # after every case, so that a long run that is stopped keeps what it has
            paths |= dict.fromkeys(report.write_csv(measured, folder, where, when))
        if device.type == "cuda":
            torch.cuda.empty_cache()
    report.print_paths(list(paths))
    report.print_results(results, where)
