"""Operators on a GPU: what to launch, from the compiled library, and who launches it.

The library says which kernels an operator runs, with their grids, blocks, shared memory and
arguments (``_cpp.record_launches``). A *runner* runs them: the compiled library itself, CuPy, or a
test that executes kernels on a CPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from transnext_ops import _cpp
from transnext_ops.backends.dlpack import exchanged, readable


class Runner(Protocol):
    """Runs recorded launches."""

    def architecture(self, device: torch.device) -> int:
        """Return the compute capability to plan for, major * 10 + minor."""

    def run(self, op: str, launches: _cpp.Launches, tensors: Sequence[Tensor | None]) -> None:
        """Enqueue the kernels; `tensors` own all memory that their arguments point to."""


class _Choice(threading.local):
    runner: Runner | None = None


_choice = _Choice()


def chosen_runner() -> Runner | None:
    """Return the runner of the enclosing :func:`use_runner` of this thread, if any."""
    return _choice.runner


@contextmanager
def use_runner(runner: Runner) -> Iterator[None]:
    """Send the compiled operators' calls of this thread to `runner`, whatever the device."""
    outer = _choice.runner
    _choice.runner = runner
    try:
        yield
    finally:
        _choice.runner = outer


def run(
    runner: Runner,
    operator: Callable[..., None],
    tensors: Sequence[Tensor | None],
    sizes: Sequence[Any],
) -> None:
    """Record what a compiled operator launches for these tensors and have `runner` run it."""
    first = tensors[0]
    assert first is not None
    architecture = runner.architecture(first.device)
    arguments = (*exchanged(tensors), *sizes, 1)
    try:
        launches = _cpp.record_launches(operator, arguments, architecture)
    except _cpp.UnreadableTensor:
        tensors = readable(tensors)  # which the kernels will point into
        arguments = (*exchanged(tensors), *sizes, 1)
        launches = _cpp.record_launches(operator, arguments, architecture)
    if launches.workspace > 0:
        workspace = torch.empty(launches.workspace, dtype=torch.float32, device=first.device)
        launches.place_workspace(workspace.data_ptr())
        tensors = (*tensors, workspace)
    if launches.kernels:
        runner.run(operator.__name__, launches, tensors)
