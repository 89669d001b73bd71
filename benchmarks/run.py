"""Time the operators and models on every backend, against the published formulation.

    python benchmarks/run.py [--batch 8] [--size 224] [--repeats 15] [--only aggregated]

Candidates of a case take turns within one process, so that what else the machine does hits all of
them alike; the table shows medians, their spread, and the ratio to the first candidate. The rows
also go to ``benchmarks/results/<what>-<dtype>-<machine>.csv``.
"""

from __future__ import annotations

import argparse
import csv
import functools
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import published_formulation as published
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import transnext_ops as ops
from transnext_models import TransNeXt, create_model

Step = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One thing to time: named candidates that do the same work, the baseline first."""

    name: str
    candidates: dict[str, Step]


@dataclass(frozen=True)
class Result:
    """Seconds of one candidate."""

    case: str
    candidate: str
    median: float
    low: float
    high: float
    speedup: float


def measure(case: Case, repeats: int) -> list[Result]:
    """Run the candidates in turns; return each one's median and quartiles."""
    seconds: dict[str, list[float]] = {name: [] for name in case.candidates}
    for turn in range(repeats + 2):
        for name, step in case.candidates.items():
            start = time.perf_counter()
            step()
            if turn >= 2:  # the first two turns warm caches and allocator
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    baseline = next(iter(medians.values()))
    results = []
    for name, values in seconds.items():
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        results.append(Result(case.name, name, medians[name], low, high, baseline / medians[name]))
    return results


def forward_and_backward(function: Callable[..., Tensor], inputs: list[Tensor], **keywords) -> Step:
    """Return a step that runs `function` forward and backward to every input and parameter."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    named = dict(keywords)
    wanted = list(leaves)
    for name, value in keywords.items():
        if isinstance(value, ops.PositionBias):
            table = value.table.detach().requires_grad_()
            named[name] = ops.PositionBias(table, value.row_map, value.col_map, value.col_weights)
            wanted.append(table)
        elif isinstance(value, Tensor):
            named[name] = value.detach().requires_grad_()
            wanted.append(named[name])
    d_out = torch.randn_like(function(*inputs, **keywords))

    def step() -> object:
        return torch.autograd.grad(function(*leaves, **named), wanted, d_out)

    return step


def forward_only(function: Callable[..., Tensor], inputs: list[Tensor], **keywords) -> Step:
    """Return a step that runs `function` without recording a graph."""

    def step() -> object:
        with torch.inference_mode():
            return function(*inputs, **keywords)

    return step


def operator_cases(batch: int, size: int, backends: list[str]) -> Iterator[Case]:
    """Yield the operators at the shapes of TransNeXt-Tiny's stages for a square image."""
    for stage, (heads, ratio, mlp_ratio) in enumerate(((3, 8, 8), (6, 4, 8), (12, 2, 4))):
        side = size // (4 << stage)
        grid, pool_grid = (side, side), (side // ratio, side // ratio)
        length, pool_length, width = side * side, (side // ratio) ** 2, heads * 24
        kv = torch.randn(batch, length, 2, heads, 24)
        kv_pool = torch.randn(batch, pool_length, 2, heads, 24)
        inputs = [torch.randn(batch, length, heads, 24), *kv.unbind(2), *kv_pool.unbind(2)]
        bias = ops.position_bias(
            torch.randn(512, 2), torch.randn(512), torch.randn(heads, 512) * 0.05,
            torch.randn(heads), grid=grid, pool_grid=pool_grid, pretrain_grid=grid,
        )  # fmt: skip
        parameters = {
            "grid": grid, "pool_grid": pool_grid, "window_size": 3, "scale": torch.rand(heads) * 4,
            "query_embedding": torch.randn(heads, 24) * 0.02, "local_bias": torch.randn(heads, 9),
            "tokens": torch.randn(heads, 24, 9) * 0.02, "token_bias": torch.randn(heads, 9),
        }  # fmt: skip
        hidden = int(2 * width * mlp_ratio / 3)
        x, weight = torch.randn(batch, length, 2 * hidden), torch.randn(hidden, 1, 3, 3)
        calls: dict[str, tuple] = {
            "aggregated_attention": (inputs, {**parameters, "pool_bias": bias.dense()}),
            "conv_glu": ([x, weight, torch.randn(hidden)], {"grid": grid}),
            "gelu_pool": (
                [torch.randn(batch, length, width)],
                {"grid": grid, "pool_grid": pool_grid},
            ),
        }
        for name, (tensors, keywords) in calls.items():
            # The package keeps the bias as a table, the published formulation N×P values.
            own = {**keywords, "pool_bias": bias} if "pool_bias" in keywords else keywords
            for direction, timed in (("forward", forward_only), ("both", forward_and_backward)):
                candidates = {"published": timed(getattr(published, name), tensors, **keywords)}
                for backend in backends:
                    function = functools.partial(getattr(ops, name), backend=backend)
                    candidates[backend] = timed(function, tensors, **own)
                yield Case(f"{name} stage {stage + 1} {direction}", candidates)


def model_forward(model: TransNeXt, images: Tensor) -> object:
    with torch.inference_mode():
        return model(images)


def model_both(model: TransNeXt, images: Tensor) -> object:
    model.zero_grad()
    return model(images).sum().backward()


def model_cases(batch: int, size: int, backends: list[str]) -> Iterator[Case]:
    """Yield whole models, forward in evaluation and forward + backward in training."""
    for name in ("transnext_micro", "transnext_tiny"):
        images = torch.randn(batch, 3, size, size)
        for direction in ("forward", "both"):
            candidates: dict[str, Step] = {}
            for backend in backends:
                model = create_model(name, backend=backend)
                model.train(direction == "both")

                step = model_forward if direction == "forward" else model_both
                candidates[backend] = functools.partial(step, model, images)
            yield Case(f"{name} {size} {direction}", candidates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8, help="images per call")
    parser.add_argument("--size", type=int, default=224, help="side of the square images")
    parser.add_argument("--repeats", type=int, default=15, help="timed turns per candidate")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--what", choices=("operators", "models"), default="operators")
    parser.add_argument(
        "--backends", nargs="+", default=["torch", "cpp"], help="backends to compare"
    )
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    backends = [name for name in arguments.backends if name in ops.available_backends()]
    torch.manual_seed(0)
    cases = {"operators": operator_cases, "models": model_cases}[arguments.what]
    results: list[Result] = []
    for case in cases(arguments.batch, arguments.size, backends):
        if arguments.only in case.name:
            results += measure(case, arguments.repeats)
    if not results:
        raise SystemExit(f"--only: no case has {arguments.only!r} in its name")

    title = f"batch {arguments.batch}, {arguments.size}×{arguments.size}, float32, "
    title += f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    table = Table(title=title)
    for column in ("case", "candidate", "median ms", "quartiles ms", "speed"):
        table.add_column(column, justify="left" if column in ("case", "candidate") else "right")
    for row in results:
        spread = f"{1e3 * row.low:.2f} - {1e3 * row.high:.2f}"
        table.add_row(
            row.case, row.candidate, f"{1e3 * row.median:.2f}", spread, f"{row.speedup:.2f}×"
        )
    Console().print(table)

    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / f"{arguments.what}-float32-{platform.machine()}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*Result.__dataclass_fields__, "batch", "size", "torch", "threads"])
        for row in results:
            writer.writerow(
                [
                    *row.__dict__.values(), arguments.batch, arguments.size, torch.__version__,
                    torch.get_num_threads(),
                ]
            )  # fmt: skip
    Console().print(f"written to {path}")


if __name__ == "__main__":
    main()
