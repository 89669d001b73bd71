"""Print what compilers make of the CUDA kernels and what emulated launches count.

    python -m tools.kernel_report                                  # everything, 224x224
    python -m tools.kernel_report attention --architectures 80 90  # part of it
    python -m tools.kernel_report --check --no-launches            # for CI

The first table has a row for each kernel and architecture, the second one for each kernel of each
call at TransNeXt-Tiny's sizes, beside the least that is possible: every input read once and every
result written once. Operations stand beside the number that docs/gpu.md derives. What is counted is
the PTX: the assembler's spills are in the first table only. Needs nvcc or the package
nvidia-cuda-nvrtc, no GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import torch

from tools.kernel_report import compilers, emulator, limits, plans
from tools.kernel_report.emulator import SECTOR, Count, Counts
from tools.kernel_report.subjects import SIZES, Subject, subjects
from transnext_ops.backends import cpp_backend, kernel_sources


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report and return the exit status: 1 for problems, 2 where it cannot run."""
    options = _parser().parse_args(arguments)
    if (reason := cpp_backend.unavailable()) is not None:
        print(f"kernel_report: {reason}", file=sys.stderr)
        return 2
    compiler = options.compiler or ("nvrtc" if compilers.unavailable("nvcc") else "nvcc")
    if (reason := compilers.unavailable(compiler)) is not None:
        print(f"kernel_report: {compiler} cannot compile: {reason}", file=sys.stderr)
        return 2
    try:
        problems = _print_compiled(options, compiler)
        if not options.no_launches:
            _print_launches(options, compiler)
    except compilers.CompilationError as error:
        print(f"kernel_report: {error}", file=sys.stderr)
        return 1
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if options.check and problems else 0


def _parser() -> argparse.ArgumentParser:
    summary, _, details = str(__doc__).partition("\n\n")
    parser = argparse.ArgumentParser(
        "python -m tools.kernel_report", description=summary, epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("words", nargs="*", help="report kernels and calls with all these words in their names")
    add("--compiler", choices=("nvcc", "nvrtc"), help="default: nvcc if there is one, else nvrtc")
    add(
        "--architectures", nargs="+", type=int, choices=compilers.ARCHITECTURES,
        default=compilers.ARCHITECTURES, metavar="SM", help="default: 75 80 86 89 90 100 120",
    )  # fmt: skip
    add(
        "--sizes", nargs="+", choices=tuple(SIZES), default=["224"],
        help="images of the calls; default: 224. 800x1280 emulates for minutes",
    )  # fmt: skip
    add(
        "--launch-on", type=int, choices=compilers.ARCHITECTURES, default=80, metavar="SM",
        help="architecture of the emulated launches; default: 80",
    )  # fmt: skip
    add("--no-launches", action="store_true", help="compile only")
    add(
        "--check", action="store_true",
        help="fail if a kernel of head dim 24 spills, uses local memory or has low occupancy",
    )  # fmt: skip
    return parser


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _print_compiled(options: argparse.Namespace, compiler: str) -> list[str]:
    """Print the table of compiled kernels and return what is wrong with them."""
    print(
        _row(
            "kernel", "sm", "registers", "spilled, read back B", "stack B", "block",
            "shared B", "occupancy", "tensor-core instructions",
        )
    )  # fmt: skip
    print(_row(*["---"] * 9))
    problems = []
    for architecture in options.architectures:
        blocks = plans.blocks(tuple(options.sizes), architecture)
        for kernels in kernel_sources.kernel_names().values():
            chosen = [
                kernel
                for kernel in kernels
                if all(word in kernel for word in options.words)
                and limits.is_compiled(kernel, architecture)
            ]
            if not chosen:
                continue
            for kernel in compilers.compile_kernels(compiler, chosen, architecture).kernels:
                planned = plans.worst(kernel, blocks.get(kernel.kernel, ()))
                block, occupancy = planned or (None, None)
                print(
                    _row(
                        f"`{kernel.kernel}`",
                        architecture,
                        kernel.registers,
                        f"{kernel.spill_stores}, {kernel.spill_loads}",
                        kernel.stack_bytes,
                        "–" if block is None else block.threads,
                        kernel.shared_bytes + (0 if block is None else block.shared_bytes),
                        "–" if occupancy is None else f"{occupancy:.0%}",
                        kernel.tensor_core_instructions,
                    ),
                    flush=True,
                )
                problems += limits.problems(kernel, occupancy)
    return list(dict.fromkeys(problems))


def _print_launches(options: argparse.Namespace, compiler: str) -> None:
    if (reason := emulator.unavailable()) is not None:
        print(f"no emulated launches: {reason}", file=sys.stderr)
        return
    print()
    print(
        _row(
            "call", "kernel", "instructions / output", "operations / output (derived)",
            "on tensor cores", "bytes / output (least)", "sectors / least", "distinct / least",
            "of a sector used", "shared wavefronts / conflict-free",
        )
    )  # fmt: skip
    print(_row(*["---"] * 10))
    for size in options.sizes:
        for subject in subjects(size):
            for dtype in subject.dtypes:
                kernels = plans.planned(subject, dtype, options.launch_on)
                names = " ".join((subject.name, *kernels))
                if not kernels or not all(word in names for word in options.words):
                    continue
                counts = emulator.count(subject, dtype, compiler, options.launch_on)
                for row in _count_rows(subject, dtype, counts):
                    print(row, flush=True)


def _count_rows(subject: Subject, dtype: torch.dtype, counts: Counts) -> Iterator[str]:
    """Yield a row for each kernel, and one for the whole call, whose least is known."""
    call = f"{subject.name} {str(dtype).removeprefix('torch.')}"
    if len(counts.kernels) == 1:
        (count,) = counts.kernels
        yield _row(call, f"`{count.kernel}`", *_count_cells(count, subject, counts.least_sectors))
        return
    for count in counts.kernels:
        yield _row(call, f"`{count.kernel}`", *_count_cells(count, subject, None))
    yield _row(call, "together", *_count_cells(counts.total(), subject, counts.least_sectors))


def _count_cells(count: Count, subject: Subject, least_sectors: int | None) -> Iterator[str]:
    outputs = subject.outputs
    operations = f"{count.operations / outputs:.1f}"
    moved = f"{count.moved / outputs:.1f}"
    sectors = distinct = "–"
    if least_sectors is not None:
        operations += f" ({subject.operations / outputs:.1f})"
        moved += f" ({SECTOR * least_sectors / outputs:.1f})"
        sectors = f"{count.sectors / least_sectors:.2f}"
        distinct = f"{count.distinct / least_sectors:.2f}"
    yield f"{count.instructions / outputs:.1f}"
    yield operations
    yield f"{count.products / max(count.operations, 1):.0%}"
    yield moved
    yield sectors
    yield distinct
    yield f"{count.moved / (SECTOR * max(count.sectors, 1)):.0%}"
    yield f"{count.wavefronts / count.conflict_free:.2f}" if count.conflict_free else "–"


if __name__ == "__main__":
    sys.exit(main())
