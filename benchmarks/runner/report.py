"""Tables on the terminal, rows in a CSV file, and a picture."""

from __future__ import annotations

import csv
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.runner.measure import Result

_console = Console(width=None if Console().is_terminal else 150)
_VERSIONS = ("torch", "numpy", "timm")


def processor() -> str:
    """Return the processor's name, as Linux has it."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class Machine:
    """What the results were measured on.

    Attributes
    ----------
    processor : str
        The processor's or the card's name.
    threads : int or None
        None where the processor is no CPU.
    """

    processor: str
    threads: int | None

    @classmethod
    def of_cpu(cls, threads: int) -> Machine:
        """Return this computer's processor with the threads it was allowed."""
        return cls(processor(), threads)

    @classmethod
    def of_device(cls, name: str) -> Machine:
        """Return an accelerator."""
        return cls(name, None)

    @property
    def title(self) -> str:
        """The machine in words."""
        return self.processor + (f", {self.threads} threads" if self.threads else "")

    @property
    def slug(self) -> str:
        """The machine in file names."""
        words = self.processor
        if self.threads:
            words = f"{platform.machine()} {words} {self.threads} threads"
        return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _megabytes(value: int | None) -> str:
    return "" if value is None else f"{value / 2**20:.0f}"


def _times(value: float) -> str:
    return f"{value:.2f}"


def _baseline(results: list[Result], result: Result) -> Result:
    return next(other for other in results if other.case == result.case)


def print_results(results: list[Result], machine: Machine) -> None:
    """Print one row per case and candidate; speed-ups are over the case's first candidate."""
    table = Table(title=f"{machine.title}, torch {torch.__version__}")
    for column in ("case", "candidate"):
        table.add_column(column)
    for column in ("median ms", "quartiles ms", "speed", "× bound", "peak MB", "build s"):
        table.add_column(column, justify="right")
    previous = ""
    for result in results:
        name = result.case.name
        table.add_row(
            "" if name == previous else name,
            result.candidate.name,
            f"{1e3 * result.median:.2f}",
            f"{1e3 * result.low:.2f} - {1e3 * result.high:.2f}",
            _times(_baseline(results, result).median / result.median),
            _times(result.median / result.bound) if result.bound else "",
            _megabytes(result.peak),
            f"{result.build_seconds:.2f}",
        )
        previous = name
    _console.print(table)
    for result in results:
        if result.note:
            _console.print(f"{result.case.name}, {result.candidate.name}: {result.note}")


def _rows(results: list[Result], machine: Machine, when: str) -> Iterator[dict[str, object]]:
    versions = {package: _version(package) for package in _VERSIONS}
    for result in results:
        case = result.case
        yield {
            "case": case.name,
            "candidate": result.candidate.name,
            "median_seconds": f"{result.median:.6g}",
            "first_quartile_seconds": f"{result.low:.6g}",
            "third_quartile_seconds": f"{result.high:.6g}",
            "runs": result.runs,
            "speed": f"{_baseline(results, result).median / result.median:.4g}",
            "bound_seconds": f"{result.bound:.6g}" if result.bound else "",
            "peak_bytes": "" if result.peak is None else result.peak,
            "build_seconds": f"{result.build_seconds:.4g}",
            "build_peak_bytes": "" if result.build_peak is None else result.build_peak,
            "processor": machine.processor,
            "threads": machine.threads or "",
            "when": when,
            "python": platform.python_version(),
            **versions,
            "note": result.note,
        }


def write_csv(results: list[Result], folder: Path, machine: Machine, when: str) -> list[Path]:
    """Write ``<what>-<dtype>-<machine>.csv``; cases that were not run keep their earlier rows."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for what, dtype in dict.fromkeys((r.case.what, r.case.dtype) for r in results):
        path = folder / f"{what}-{dtype}-{machine.slug}.csv"
        mine = [r for r in results if (r.case.what, r.case.dtype) == (what, dtype)]
        rows = list(_rows(mine, machine, when))
        measured = {row["case"] for row in rows}
        if path.exists():
            with path.open(newline="") as file:
                kept = [row for row in csv.DictReader(file) if row["case"] not in measured]
            rows = [*kept, *rows]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[-1]), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        paths.append(path)
    return paths


def draw(csv_path: Path) -> Path | None:
    """Draw a CSV's speeds relative to each case's baseline; None without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with csv_path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if float(row["speed"]) != 1.0]
    if not rows:
        return None
    candidates = list(dict.fromkeys(row["candidate"] for row in rows))
    colours = dict(zip(candidates, pyplot.get_cmap("tab10").colors, strict=False))
    figure, axes = pyplot.subplots(figsize=(10, 1 + 0.22 * len(rows)))
    labels = []
    for place, row in enumerate(rows):
        speed = float(row["speed"])
        axes.barh(place, speed, color=colours[row["candidate"]])
        axes.text(speed, place, f" {speed:.1f}×", va="center", fontsize=7)
        first = place == 0 or rows[place - 1]["case"] != row["case"]
        labels.append(f"{row['case']}  ·  {row['candidate']}" if first else row["candidate"])
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlabel("speed relative to the published formulation (higher is better)")
    threads = f", {rows[0]['threads']} threads" if rows[0]["threads"] else ""
    axes.set_title(rows[0]["processor"] + threads, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path = csv_path.with_suffix(".png")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def print_paths(paths: list[Path]) -> None:
    """Print what was written."""
    for path in paths:
        picture = draw(path)
        _console.print(f"written: {path}" + (f", {picture}" if picture else ""))
