"""Whether an operator costs the same inside a model as alone: its threads beside PyTorch's own.

    python -m benchmarks.runner.inside_model           # Tiny 224x224 batch 8, forward and backward

A model runs in training mode and every call of a compiled operator is timed where it happens. Then
each call is repeated by itself, on the same tensors, as often as the model makes it and with its
operands just as cold: a buffer larger than the caches is written before each call. The ratio of the
medians is what the operator pays for its place among PyTorch's operators.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from transnext_models import create_model
from transnext_ops.backends import cpp_backend
from transnext_ops.backends.registry import OPERATORS

_COLD_BYTES = 64 << 20


class Recorder:
    """Times the compiled operators' calls, and keeps the last arguments of each kind."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._calls: dict[str, Callable[[], object]] = {}
        names = (name + suffix for name in OPERATORS for suffix in ("", "_backward"))
        self._functions = {name: getattr(cpp_backend, name) for name in names}

    def __enter__(self) -> Recorder:
        for name, function in self._functions.items():
            setattr(cpp_backend, name, self._timed(name, function))
        return self

    def __exit__(self, *_: object) -> None:
        for name, function in self._functions.items():
            setattr(cpp_backend, name, function)

    def _timed(self, name: str, function: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: Any) -> object:
            call = f"{name} {list(arguments[0].shape)}"
            start = time.perf_counter()
            result = function(*arguments)
            self.seconds[call].append(time.perf_counter() - start)
            self._calls[call] = functools.partial(function, *arguments)
            return result

        return run

    def alone(self, runs: int) -> dict[str, list[float]]:
        """Return the seconds of each recorded call made by itself, with results in new memory."""
        cold = torch.empty(_COLD_BYTES // 4)
        seconds: dict[str, list[float]] = defaultdict(list)
        for name, call in self._calls.items():
            for _ in range(runs):
                cold.add_(1.0)
                start = time.perf_counter()
                result = call()
                seconds[name].append(time.perf_counter() - start)
                del result
        return seconds


def measure(model_name: str, batch: int, side: int, runs: int) -> list[tuple[str, float, float]]:
    """Return (call, median seconds inside the model, median seconds alone) for every call."""
    model = create_model(model_name, img_size=side).train()
    images = torch.randn(batch, 3, side, side)
    with Recorder() as recorder:
        model(images).sum().backward()  # warms up
        recorder.seconds.clear()
        for _ in range(runs):
            model(images).sum().backward()
    alone = recorder.alone(max(runs, 11))
    return [
        (name, statistics.median(values), statistics.median(alone[name]))
        for name, values in recorder.seconds.items()
    ]


def main() -> None:
    """Print every call's time in the model and by itself."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="transnext_tiny")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    rows = measure(options.model, options.batch, options.size, options.runs)
    table = Table(title=f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    table.add_column("call")
    for column in ("in the model ms", "alone ms", "ratio"):
        table.add_column(column, justify="right")
    for name, inside, alone in rows:
        table.add_row(name, f"{1e3 * inside:.2f}", f"{1e3 * alone:.2f}", f"{inside / alone:.2f}")
    inside, alone = (sum(row[place] for row in rows) for place in (1, 2))
    table.add_row("all", f"{1e3 * inside:.2f}", f"{1e3 * alone:.2f}", f"{inside / alone:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
