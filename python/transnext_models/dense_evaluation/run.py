"""Evaluate a detector or segmentor on a set of images: a row of results for each metric."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..classification.classifier import resolve_device
from ..evaluation.engine import EvaluationError, Machine, Speed
from ..evaluation.outcome import OtherProcessFailed, Outcome, Watcher
from ..evaluation.processes import Processes, started_processes
from ..training.launch import is_first_process
from .engine import Round, answer_images
from .journal import Journal
from .options import DenseOptions
from .subjects import Subject, load_subject
from .table import Table

__all__ = [
    "DenseOptions",
    "OtherProcessFailed",
    "Outcome",
    "Watcher",
    "evaluate_dense",
    "is_first_process",
]

Load = Callable[[DenseOptions, str, Machine], Subject]


def evaluate_dense(
    options: DenseOptions, watcher: Watcher | None = None, load: Load | None = None
) -> Outcome:
    """Measure every row that is asked for and not there yet.

    Parameters
    ----------
    options : DenseOptions
    watcher : Watcher, optional
    load : callable, optional
        Loads the model that the options name, in a mode, for a machine, instead of
        `subjects.load_subject`.

    Raises
    ------
    ValueError, RuntimeError
        If nothing can be run: weights, device, annotations or files are not as they must be. What
        happens to the images, such as an unreadable one, is a failure in the outcome.
    """
    watcher, load = watcher or Watcher(), load or load_subject
    with started_processes() as processes:
        outcome = Outcome(is_first=processes.is_first)
        table = processes.in_first(lambda: Table(options, watcher, outcome))
        if options.predictions is not None:
            if table is not None:
                table.score_saved(options.predictions)
            return outcome
        workers = processes.loading_workers() if options.workers is None else options.workers
        device = processes.device(resolve_device(options.device))
        machine = Machine(device, options.precision, 1, workers, processes)
        images = processes.from_first(table.whole.without_objects() if table else [])
        for mode in options.modes:
            # The first process opens the weights before the others, which wait, so that one
            # download serves all and an error is said once.
            subject = processes.in_first(partial(_first_load, table, load, options, mode, machine))
            subject = subject or load(options, mode, machine)
            metrics, journal, answered = _begun(processes, table, subject, machine)
            if not metrics:
                continue
            title = f"{subject.described.name}, {subject.described.mode}"
            if processes.is_first:
                watcher.started(title, len(images))
                watcher.advanced(len(answered))
            take = table.taking(subject, journal) if table and journal else _nothing
            try:
                speed = answer_images(subject, images, machine, take, answered)
            except EvaluationError as error:
                watcher.failed(title, str(error))
                outcome.failures.append(f"{title}: {error}")
                continue
            finish = partial(_finish, table, subject, machine, journal, metrics, speed)
            processes.in_first(finish)
        return outcome


def _first_load(
    table: Table | None, load: Load, options: DenseOptions, mode: str, machine: Machine
) -> Subject:
    assert table is not None  # in the first process
    return table.checked(load(options, mode, machine))


def _begun(
    processes: Processes, table: Table | None, subject: Subject, machine: Machine
) -> tuple[list[str], Journal | None, set[int]]:
    """Return the metrics to measure; in the first process the journal; the images answered."""

    def begin() -> tuple[list[str], Journal | None]:
        assert table is not None  # in the first process
        metrics = table.missing(subject, machine)
        return metrics, table.journal(subject, machine) if metrics else None

    metrics, journal = processes.in_first(begin) or ([], None)
    answered = set(journal.answers) if journal is not None else set()
    metrics, answered = processes.from_first((metrics, answered))
    return metrics, journal, answered


def _finish(
    table: Table | None,
    subject: Subject,
    machine: Machine,
    journal: Journal | None,
    metrics: list[str],
    speed: Speed,
) -> None:
    assert table is not None  # in the first process
    assert journal is not None
    table.finish(subject, machine, journal, metrics, speed)


def _nothing(done: Round) -> None:
    pass
