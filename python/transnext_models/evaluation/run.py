"""Evaluate a model on sets of images: rows of results, written one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..classification.classifier import resolve_device
from ..training.launch import is_first_process
from .answers import Answers, as_arrays, summarise
from .engine import EvaluationError, Machine, Speed, Task, evaluate_images
from .generated import Corruption
from .image_sets import CORRUPTIONS, IMAGENET_C, SEVERITIES
from .listing import LabelledImage
from .loading import ImageSource
from .models import Built, EvaluatedModel, load_evaluated
from .options import EvaluationOptions
from .outcome import OtherProcessFailed, Outcome, Watcher
from .passes import Pass, View
from .plan import GENERATED, Plan, make_plan
from .predictions import Predictions
from .preparation import Prepare
from .processes import Processes, started_processes
from .results import Results
from .rows import Row, corruption_row, row_of, same

__all__ = [
    "EvaluationOptions",
    "OtherProcessFailed",
    "Outcome",
    "Watcher",
    "evaluate",
    "is_first_process",
]

_PUBLISHED_PRECISION = "float16"
_CORRUPTED_SIZE = 224


def evaluate(
    options: EvaluationOptions,
    watcher: Watcher | None = None,
    model: EvaluatedModel | None = None,
) -> Outcome:
    """Measure every row that is asked for and not there yet.

    Parameters
    ----------
    options : EvaluationOptions
    watcher : Watcher, optional
    model : EvaluatedModel, optional
        Instead of the one that the options name.

    Raises
    ------
    ValueError, RuntimeError
        If nothing can be run: weights, device, folders or files are not as they must be. What
        happens to a single set, such as an unreadable image, is a failure in the outcome.
    """
    with started_processes() as processes:
        return _Evaluation(options, watcher or Watcher(), processes).run(model)


class _Evaluation:
    def __init__(self, options: EvaluationOptions, watcher: Watcher, processes: Processes) -> None:
        self.options = options
        self.watcher = watcher
        self.processes = processes
        device = processes.device(resolve_device(options.device))
        default = _PUBLISHED_PRECISION if device.type == "cuda" else "float32"
        self.machine = Machine(
            device,
            options.precision or default,
            options.batch_size,
            processes.loading_workers() if options.workers is None else options.workers,
            processes,
        )
        self.outcome = Outcome(is_first=processes.is_first)

    def run(self, model: EvaluatedModel | None) -> Outcome:
        options = self.options

        # The first process opens weights and files before the others, which wait, so that one
        # download serves all and an error is said once.
        def prepare() -> tuple[EvaluatedModel, Results, Predictions | None, Plan]:
            loaded = model or self._load()
            results = Results(options.output)
            file = options.save_predictions
            predictions = None if file is None else Predictions(file)
            if options.c is not None:
                self.watcher.remark(f"c: looking at the folders of {options.c}")
            plan = make_plan(options, loaded)
            results.check_writable()
            return loaded, results, predictions, plan

        prepared = self.processes.in_first(prepare)
        plan = self.processes.from_first(prepared[3] if prepared else None)
        assert plan is not None
        self.model = prepared[0] if prepared else model or self._load()
        self.results = prepared[1] if prepared else None
        self.predictions = prepared[2] if prepared else None
        if self.results is not None:
            if self.results.rows:
                self.results.write()  # a process killed between its files left one behind
            for fault in plan.faults:
                self.watcher.remark(fault)
        for mode in options.modes:
            built = self.model.build(mode, self.machine.device, self.machine.precision)
            for size in options.sizes or (self.model.own_size,):
                for one in plan.passes:
                    self._run_pass(one, built, mode, size)
                self._sum_up(built, mode, size)
        if self.predictions is not None:
            self.predictions.finish()
        return self.outcome

    def _load(self) -> EvaluatedModel:
        options = self.options
        return load_evaluated(
            options.model, options.weights, key=options.weights_key, backend=options.backend
        )

    # -- one pass ---------------------------------------------------------------------------------

    def _run_pass(self, one: Pass, built: Built, mode: str, size: int) -> None:
        missing = self.processes.in_first(lambda: self._missing(one, built, mode, size))
        views = self.processes.from_first(missing)
        if not views:
            return
        images = self.processes.from_first(self.processes.in_first(one.images)) or []
        prepare = self._prepare(one, size)
        task = Task(
            built.module,
            images,
            ImageSource(one.tree.open, prepare, _change(one)),
            {view.set: view.classes for view in views},
            size,
        )
        if self.processes.is_first:
            self.watcher.started(f"{one.title}, {size}x{size}, {mode}", len(images))
        try:
            found = evaluate_images(
                task, self.machine, self.watcher.advanced if self.processes.is_first else None
            )
        except EvaluationError as error:
            self.watcher.failed(one.title, str(error))
            self.outcome.failures.append(f"{one.title}: {error}")
            return
        if found is not None:
            answers, speed = found
            self._in_rows(one, views, built, mode, prepare, images, answers, speed)

    def _prepare(self, one: Pass, size: int) -> Prepare:
        return self.model.corrupted(size) if one.corruption else self.model.normal(size)

    def _missing(self, one: Pass, built: Built, mode: str, size: int) -> list[View]:
        """Return the views without a row; the rows of the others are part of the outcome."""
        assert self.results is not None
        missing = []
        for view in one.views:
            key = self._key(one, view, built, mode, size)
            saved = self.predictions is None or self.predictions.has(_name(key))
            if saved and self.results.has(key):
                self.outcome.rows += [row for row in self.results.rows if same(row, key)]
            else:
                missing.append(view)
        return missing

    def _key(self, one: Pass, view: View, built: Built, mode: str, size: int) -> Row:
        return {
            "model": self.model.name,
            "weights_sha256": self.model.weights_sha256,
            "set": view.set,
            "corruption": one.corruption,
            "severity": one.severity,
            "img_size": size,
            "mode": mode,
            "precision": self.machine.precision,
            "backend": built.backend,
            "note": _note(one, size),
        }

    def _in_rows(
        self,
        one: Pass,
        views: Sequence[View],
        built: Built,
        mode: str,
        prepare: Prepare,
        images: Sequence[LabelledImage],
        answers: Mapping[str, Answers],
        speed: Speed,
    ) -> None:
        assert self.results is not None
        for view in views:
            try:
                summary = summarise(answers[view.set], view.right_answers(images))
            except ValueError as error:
                self.watcher.failed(view.set, str(error))
                self.outcome.failures.append(f"{view.set}: {error}")
                continue
            row = row_of(
                self.model,
                built,
                prepare,
                summary,
                set_name=view.set,
                mode=mode,
                precision=self.machine.precision,
                device=self.machine.device_name,
                seconds=speed.seconds,
                corruption=one.corruption,
                severity=one.severity,
                note=_note(one, prepare.size),
            )
            if self.predictions is not None:
                paths = [image.path for image in images]
                self.predictions.add(_name(row), as_arrays(answers[view.set], paths))
            self._add(row, speed)

    def _add(self, row: Row, speed: Speed | None) -> None:
        assert self.results is not None
        self.results.add(row)
        self.outcome.rows.append(row)
        self.watcher.finished(row, speed)

    # -- corruptions ------------------------------------------------------------------------------

    def _sum_up(self, built: Built, mode: str, size: int) -> None:
        """Add the row of the mean over all corruptions where all of them are there."""
        if self.results is None:
            return
        for name in (IMAGENET_C.name, GENERATED):
            rows = [
                row
                for row in self.outcome.rows
                if (row["set"], row["mode"], row["img_size"]) == (name, mode, size)
                and row["severity"] != ""
            ]
            if len(rows) < len(CORRUPTIONS) * len(SEVERITIES):
                continue
            whole = corruption_row(rows, is_published_set=name == IMAGENET_C.name)
            if self.results.has(whole):
                self.outcome.rows += [row for row in self.results.rows if same(row, whole)]
            else:
                self._add(whole, None)


def _note(one: Pass, size: int) -> str:
    resized = (
        f"resized from {_CORRUPTED_SIZE}" if one.corruption and size != _CORRUPTED_SIZE else ""
    )
    return ", ".join(filter(None, (one.note, resized)))


def _name(row: Mapping[str, Any]) -> str:
    """Return what a row's predictions are called."""
    parts = (
        f"{str(row['model']).replace('/', '-')}-{row['weights_sha256'][:8]}",
        row["set"],
        row["corruption"],
        row["severity"],
        row["img_size"],
        row["mode"],
        row["precision"],
    )
    return "/".join(str(part) for part in parts if part != "")


def _change(one: Pass) -> Callable[..., Any] | None:
    if not one.is_generated:
        return None
    return Corruption(one.corruption, int(one.severity))
