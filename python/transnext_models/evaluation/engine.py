"""Run a model over a set of images, each exactly once, on any number of processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from .answers import Answers, answers_to
from .listing import LabelledImage
from .loading import ImageSource, Unreadable, batches
from .processes import Processes

__all__ = ["PRECISIONS", "EvaluationError", "Machine", "Speed", "Task", "evaluate_images"]

PRECISIONS = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}
_MOST_UNREADABLE = 100  # of one process: then the disk is away rather than an image damaged
_SHOWN = 10
_CHANNELS = 3


class EvaluationError(RuntimeError):
    """A set cannot be evaluated: images are unreadable, or outputs are no numbers."""


@dataclass(frozen=True)
class Machine:
    """How to run.

    Attributes
    ----------
    device : torch.device
    precision : str
        ``float32``; or ``float16`` or ``bfloat16`` under autocast.
    batch_size, workers : int
        Images in the model at a time and loading processes, of each process.
    processes : Processes
    """

    device: torch.device
    precision: str = "float32"
    batch_size: int = 64
    workers: int = 0
    processes: Processes = field(default_factory=Processes)

    @property
    def device_name(self) -> str:
        """What rows call the device."""
        is_cuda = self.device.type == "cuda"
        return torch.cuda.get_device_name(self.device) if is_cuda else self.device.type

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of the forward pass."""
        dtype = PRECISIONS[self.precision]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)


@dataclass(frozen=True)
class Speed:
    """How long a set took.

    Attributes
    ----------
    seconds : float
        From the first image to the last answer, of the slowest process.
    loader, model : float
        Images per second that the loaders, and the models, of all processes could do alone.
    """

    seconds: float
    loader: float
    model: float


@dataclass
class _Part:
    """What one process found."""

    answers: dict[str, list[Answers]]
    unreadable: list[Unreadable]
    not_finite: list[int]
    seconds: float
    loading: float
    computing: float
    loaded: int


@dataclass(frozen=True)
class Task:
    """Images that a model is to answer.

    Attributes
    ----------
    model : nn.Module
        From images ``[n, 3, size, size]`` to logits ``[n, classes]``; on the machine's device.
    images : sequence of LabelledImage
        The same in every process.
    source : ImageSource
    restrictions : mapping of str to sequence of int or None
        By name, the classes to which the logits are restricted, None for all. Images of other
        classes have no answer under that name.
    size : int
        Side of the prepared images.
    """

    model: nn.Module
    images: Sequence[LabelledImage]
    source: ImageSource
    restrictions: Mapping[str, Sequence[int] | None]
    size: int

    def concerned(self, name: str, positions: Sequence[int]) -> list[int]:
        """Return the places in `positions` of images that have an answer under a name."""
        classes = self._allowed[name]
        return [
            place
            for place, position in enumerate(positions)
            if classes is None or self.images[position].label in classes
        ]

    @cached_property
    def _allowed(self) -> Mapping[str, frozenset[int] | None]:
        return {
            name: None if classes is None else frozenset(classes)
            for name, classes in self.restrictions.items()
        }


def evaluate_images(
    task: Task, machine: Machine, advanced: Callable[[int], None] | None = None
) -> tuple[dict[str, Answers], Speed] | None:
    """Return the answers to all images, in the first process; None in the others.

    Parameters
    ----------
    task : Task
    machine : Machine
    advanced : callable, optional
        Told after each batch how many images more are answered, by all processes about.

    Raises
    ------
    EvaluationError
        If images cannot be read, or the model's output for one is not finite; names them.
    RuntimeError
        If the device runs out of memory.
    """
    part = _own_part(task, machine, advanced)
    parts = machine.processes.gathered(part)
    if not parts:
        return None
    _raise_for(task.images, parts)
    answers = {}
    for name in task.restrictions:
        whole = Answers.joined([answer for part in parts for answer in part.answers[name]])
        expected = len(task.concerned(name, range(len(task.images))))
        if len(whole.images) != expected:
            raise RuntimeError(f"{len(whole.images)} of {expected} images were evaluated")
        answers[name] = whole
    workers = max(1, machine.workers)
    return answers, Speed(
        max(part.seconds for part in parts),
        sum(part.loaded / max(part.loading / workers, 1e-9) for part in parts),
        sum(part.loaded / max(part.computing, 1e-9) for part in parts),
    )


def _own_part(task: Task, machine: Machine, advanced: Callable[[int], None] | None) -> _Part:
    processes = machine.processes
    # All batches have one size, also the last, so that kernels chosen by size are the same for any
    # number of processes.
    batch_size = min(machine.batch_size, len(task.images))
    part = _Part({name: [] for name in task.restrictions}, [], [], 0.0, 0.0, 0.0, 0)
    first = torch.zeros(batch_size, _CHANNELS, task.size, task.size)
    _logits(task.model, first, machine)  # loads what it needs
    started = time.perf_counter()
    for batch in batches(
        task.source,
        [image.path for image in task.images],
        range(processes.rank, len(task.images), processes.count),
        batch_size=batch_size,
        workers=machine.workers,
        pinned=machine.device.type == "cuda",
    ):
        part.loading += batch.seconds
        part.loaded += len(batch.positions)
        part.unreadable += batch.unreadable
        if len(part.unreadable) >= _MOST_UNREADABLE:
            break
        if batch.images is None or part.unreadable:  # no row will come of it: look for others
            continue
        begun = time.perf_counter()
        filled = _filled(batch.images, batch_size)
        logits = _logits(task.model, filled, machine)[: len(batch.positions)]
        part.computing += time.perf_counter() - begun
        _answer(part, batch.positions, logits, task)
        if advanced is not None:
            advanced(len(batch.positions) * processes.count)
    part.seconds = time.perf_counter() - started
    return part


def _answer(part: _Part, positions: Sequence[int], logits: Tensor, task: Task) -> None:
    finite = logits.isfinite().all(1).tolist()
    if not all(finite):
        part.not_finite += [
            position for position, good in zip(positions, finite, strict=True) if not good
        ]
        return
    for name, classes in task.restrictions.items():
        rows = task.concerned(name, positions)
        answered = [positions[row] for row in rows]
        labels = [task.images[position].label for position in answered]
        part.answers[name].append(answers_to(answered, labels, logits[rows], classes))


def _filled(images: Tensor, batch_size: int) -> Tensor:
    """Repeat the last image until the batch is full."""
    missing = batch_size - len(images)
    if not missing:
        return images
    return torch.cat([images, images[-1:].expand(missing, -1, -1, -1)])


@torch.inference_mode()
def _logits(model: nn.Module, images: Tensor, machine: Machine) -> Tensor:
    """Return logits float32 ``[n, classes]`` on the CPU."""
    try:
        with machine.autocast():
            logits = model(images.to(machine.device, non_blocking=True))
        return logits.float().cpu()
    except torch.OutOfMemoryError as error:
        count, _, height, width = images.shape
        raise RuntimeError(
            f"out of memory on {machine.device} with a batch of {count} images of "
            f"{height}x{width}; use a smaller --batch-size"
        ) from error


def _raise_for(images: Sequence[LabelledImage], parts: Sequence[_Part]) -> None:
    unreadable = sorted(bad for part in parts for bad in part.unreadable)
    if unreadable:
        names = [f"{images[bad.position].path} ({bad.reason})" for bad in unreadable]
        more = f", … ({len(names)} in all)" if len(names) > _SHOWN else ""
        raise EvaluationError(f"images cannot be read: {', '.join(names[:_SHOWN])}{more}")
    not_finite = sorted(position for part in parts for position in part.not_finite)
    if not_finite:
        raise EvaluationError(
            f"the model's output is not finite for {len(not_finite)} images, "
            f"{images[not_finite[0]].path} the first: damaged weights, or an overflow"
        )
