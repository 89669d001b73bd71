"""Run a model over a set of images, each exactly once, on any number of processes, in rounds.

After every round the first process has the answers of all, so that a stopped evaluation loses one
round at most, and needs no disk that processes share.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from ..dense_data.records import AnnotatedImage
from ..evaluation.engine import EvaluationError, Machine, Speed
from .loading import LoadedImage, loaded_images
from .subjects import Answer, Subject

__all__ = ["ImageAnswer", "Round", "answer_images"]

_ROUND = 8  # images of each process between two exchanges
_MOST_PROBLEMS = 100  # then the disk is away rather than an image damaged
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """The answer to the image at a position of the set, and the model's seconds for it."""

    position: int
    seconds: float
    answer: Answer


@dataclass(frozen=True)
class Round:
    """What all processes answered since the round before.

    Attributes
    ----------
    answers : list of ImageAnswer
    seconds : float
        That it took.
    """

    answers: list[ImageAnswer]
    seconds: float


@dataclass
class _Part:
    """What one process did in a round."""

    answers: list[ImageAnswer] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)
    loading: float = 0.0
    computing: float = 0.0
    images: int = 0


def answer_images(
    subject: Subject,
    images: Sequence[AnnotatedImage],
    machine: Machine,
    take: Callable[[Round], None],
    answered: Collection[int] = (),
) -> Speed:
    """Have a model answer to all images; the first process takes the answers, round by round.

    Parameters
    ----------
    subject : Subject
        On the machine's device.
    images : Sequence[AnnotatedImage]
        The same in every process.
    machine : Machine
        Images go through the model one at a time, whatever its batch size: the model sees padding,
        so that an answer depends on what it shares a batch with.
    take : callable
        Called in the first process.
    answered : Collection[int]
        Positions that have an answer already.

    Raises
    ------
    EvaluationError
        In every process: images or labels cannot be read, or the model's output is not finite;
        names them.
    RuntimeError
        The device runs out of memory.
    """
    processes = machine.processes
    rest = [position for position in range(len(images)) if position not in answered]
    own = rest[processes.rank :: processes.count]
    rounds = -(-len(rest) // (processes.count * _ROUND))
    loaded = loaded_images(images, own, subject.scales, subject.num_classes, machine.workers)
    problems: list[tuple[int, str]] = []
    total = _Part()
    begun = started = time.perf_counter()
    for _ in range(rounds):
        part = _answer_round(subject, loaded, is_over=bool(problems), machine=machine)
        parts = processes.gathered(part)
        now = time.perf_counter()
        found = [answer for one in parts for answer in one.answers]
        problems += processes.from_first([bad for one in parts for bad in one.problems])
        if not problems:
            done = Round(sorted(found, key=lambda answer: answer.position), now - started)
            processes.in_first(lambda done=done: take(done))  # type: ignore[misc]
        for one in parts:
            total.loading += one.loading
            total.computing += one.computing
            total.images += one.images
        started = now
        if len(problems) >= _MOST_PROBLEMS:
            break
    if problems:
        texts = [text for _, text in sorted(problems)]
        more = f", … ({len(texts)} in all)" if len(texts) > _SHOWN else ""
        raise EvaluationError("; ".join(texts[:_SHOWN]) + more)
    loaders = max(1, machine.workers) * processes.count
    return Speed(
        time.perf_counter() - begun,
        loaders * total.images / max(total.loading, 1e-9),
        processes.count * total.images / max(total.computing, 1e-9),
    )


def _answer_round(
    subject: Subject, loaded: Iterator[LoadedImage], *, is_over: bool, machine: Machine
) -> _Part:
    part = _Part()
    for _ in range(_ROUND):
        image = next(loaded, None)
        if image is None:
            break
        part.loading += image.seconds
        part.images += 1
        if image.problem:
            part.problems.append((image.position, image.problem))
        if is_over or part.problems:  # no row will come of it: look for others
            continue
        begun = time.perf_counter()
        try:
            answer = subject.answer(image)
        except (FloatingPointError, ValueError) as error:
            part.problems.append((image.position, f"image {image.image_id}: {error}"))
            continue
        except torch.OutOfMemoryError as error:
            height, width = image.size
            raise RuntimeError(
                f"out of memory on {machine.device} with an image of {width}x{height}"
            ) from error
        seconds = time.perf_counter() - begun
        part.computing += seconds
        part.answers.append(ImageAnswer(image.position, seconds, answer))
    return part
