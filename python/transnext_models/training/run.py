"""One training run: options in; a folder of configuration, metrics, checkpoints, weights out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.fabric import seed_everything

from .assembly import assemble
from .checkpoint_files import read_checkpoint
from .checkpoint_writer import CheckpointWriter
from .classification import CLASSIFICATION
from .durable import RunFileError, write_text
from .export import export_run
from .interruption import RunStopped
from .launch import plan_launch
from .libraries import other_libraries
from .loggers import build_loggers
from .loop import Pace, TrainingLoop
from .options import CommonOptions, RunOptions, portable_options
from .parts import describe, quiet
from .profiling import ProfiledSteps
from .resuming import (
    Start,
    check_same_run,
    choose_start,
    configuration_of,
    configuration_to_repeat,
    differences,
)
from .run_folder import RunFolder, measures
from .run_lock import LOCK_NAME, RunLock
from .state import TrainingState
from .task import Finished, Task

__all__ = ["RunOptions", "RunResult", "RunStopped", "train"]


@dataclass(frozen=True)
class RunResult:
    """Files a run leaves, its measures, and whether this process wrote them.

    Attributes
    ----------
    weights, half_weights
        Of the best validation; in float16 too where that was asked for.
    last_weights, last_checkpoint
        Of the last epoch.
    metrics
        Of the last epoch.
    best
        Epoch and score of the best validation.
    """

    weights: Path
    half_weights: Path | None
    last_weights: Path
    last_checkpoint: Path
    metrics: dict[str, float]
    best: dict[str, float] | None
    is_first_process: bool


def train(
    options: CommonOptions,
    callbacks: Sequence[Any] = (),
    task: Task[Any, Any] = CLASSIFICATION,
) -> RunResult:
    """Train, validate, checkpoint and export.

    Parameters
    ----------
    options : CommonOptions
        The task's; `RunOptions` for classification.
    callbacks : Sequence[Any]
        Objects with any of the methods that `TrainingLoop` calls.
    task : Task
        What is trained.

    Returns
    -------
    RunResult; on processes other than the first, the files are written by the first.

    Raises
    ------
    ValueError
        An option, the data, the weights or a checkpoint do not fit; the message names which.
    RuntimeError
        A package is missing, a file cannot be written, images cannot be read, a loading process
        ended, or the loss is no longer finite.
    RunStopped
        SIGINT or SIGTERM; `resume` continues the run from where it was.
    """
    task.check_options(options)
    folder = RunFolder(options.output, task.columns)
    if options.auto_resume and options.resume is None and folder.has_begun:
        options = dataclasses.replace(options, resume=options.output)
    with RunLock() as lock, quiet(), _advised(folder):
        return _Run(task, options, folder, lock, callbacks).carry_out()


class _Run:
    """A run from its options on: everything is built and checked before anything is written."""

    def __init__(
        self,
        task: Task[Any, Any],
        options: CommonOptions,
        folder: RunFolder,
        lock: RunLock,
        callbacks: Sequence[Any],
    ) -> None:
        self.task = task
        self.options = options
        self.folder = folder
        self.lock = lock
        self.plan = plan_launch(options.devices, options.num_nodes)
        self.start = self._start()
        self.before = self._before()
        self.settings = task.settings(options, self.plan.processes, self.before)
        seed_everything(options.seed, workers=False, verbose=False)
        self.assembly = assemble(task, options, self.settings, self.plan, self._pretrain_size())
        self.data, self.model = self.assembly.data, self.assembly.model
        self.fabric = self.assembly.fabric
        self.configuration = self._configuration()
        self.callbacks = [
            *callbacks,
            *([ProfiledSteps(folder.path, self.settings.accumulate)] if options.profile else []),
            *build_loggers(folder.path, options.wandb, self.configuration),
        ]

    def carry_out(self) -> RunResult:
        """Write, train, export."""
        self._begin()
        fabric, settings, options = self.fabric, self.settings, self.options
        connected = self.assembly.connect(options, settings, settings.accumulate)
        module, state, steps = connected.module, connected.state, connected.steps
        self._score = module.score
        pace = Pace(
            settings.epochs,
            settings.accumulate,
            min(settings.validate_every, settings.epochs),
            options.checkpoint_every_steps,
            options.checkpoint_every_minutes,
            settings.recipe.early_stop,
        )
        save = functools.partial(self.folder.save, configuration=self.configuration)
        writer = CheckpointWriter(save, in_background=options.async_checkpoints)
        loop = TrainingLoop(fabric, module, steps, self.data, state, pace, writer, self.callbacks)
        self._go_on(state, loop)
        with writer, contextlib.closing(self.data):
            loop.fit()
        if self.plan.is_first:
            self._export(state)
        fabric.barrier("export")
        return RunResult(
            weights=self.folder.weights,
            half_weights=self.folder.half_weights if options.half else None,
            last_weights=self.folder.last_weights,
            best=state.best,
            last_checkpoint=self.folder.last_checkpoint,
            metrics=measures(state.rows[-1]),
            is_first_process=self.plan.is_first,
        )

    def _start(self) -> Start:
        """Where the first process starts. It has the lock while it looks, where there is one."""
        if not self.plan.is_first:
            return Start()
        if (self.folder.path / LOCK_NAME).exists():
            self.lock.acquire(self.folder.path)
        return choose_start(self.options, self.folder)

    def _before(self) -> dict[str, Any] | None:
        """Return the configuration of the run that is continued or repeated, None for neither."""
        if self.options.resume is not None:
            return self.start.configuration or configuration_of(self.options.resume)
        if self.options.config is not None:
            return configuration_to_repeat(self.options.config)
        return None

    def _pretrain_size(self) -> int | None:
        """Return the model's size where the weights that it begins with do not matter, else None.

        They do not to a run that has trained on already, and on processes that get all weights from
        the first. The size that the run began with is then in its configuration.
        """
        options = self.options
        if options.resume is None or (self.plan.is_first and self.start.path is None):
            return None
        if options.pretrain_size is not None or self.before is None:
            return options.pretrain_size
        size: int = self.before["resolved"]["pretrain_size"]
        return size

    def _configuration(self) -> dict[str, Any]:
        """Return what the run began with, checked against what it is now."""
        names = self.data.class_names
        configuration: dict[str, Any] = {
            "resolved": describe(
                self.options,
                self.settings,
                self.model,
                self.data,
                self.fabric,
                self.task.described(self.settings, self.data, self.model),
            ),
            # All that --config says is said by the others.
            "options": portable_options(dataclasses.replace(self.options, config=None)),
            "recipe": dataclasses.asdict(self.settings.recipe),
            "class_names": None if names is None else list(names),
        }
        # As it will be read back: plain data, which checkpoints must hold nothing but.
        plain: dict[str, Any] = json.loads(json.dumps(configuration))
        before = self.start.configuration
        if before is not None:
            check_same_run(before, plain, self.options)
            self._say_libraries(before, plain)
            return before
        if self.options.config is not None and self.before is not None and self.plan.is_first:
            changed = differences(self.before, plain)
            self._say_libraries(self.before, plain)
            if changed:
                text = f"--config {self.options.config}: another run: {', '.join(changed)}"
                print(text, file=sys.stderr, flush=True)
        return plain

    def _say_libraries(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        """Say where the run goes on, or is repeated, with other libraries than it began with."""
        others = other_libraries(before["resolved"], now["resolved"])
        if others and self.plan.is_first:
            text = f"{', '.join(others)}: the results may differ by rounding"
            print(text, file=sys.stderr, flush=True)

    def _begin(self) -> None:
        """Write what comes before training: the first process alone."""
        if not self.plan.is_first:
            return
        self.folder.create()
        self.lock.acquire(self.folder.path)
        if self.options.resume is None:
            choose_start(self.options, self.folder)  # somebody else may have been faster
        self.folder.write_configuration(self.configuration)

    def _go_on(self, state: TrainingState, loop: TrainingLoop) -> None:
        """Take up the checkpoint that the first process has found, if there is one."""
        content, path = self.start.content, self.fabric.broadcast(self.start.path)
        self.start = Start()  # its tensors are not needed twice
        if path is not None and not self.plan.is_first:
            content = read_checkpoint(path)
        if content is not None:
            state.restore(content)
        if self.plan.is_first:
            if not self.folder.settle(content, path, loop.is_complete):
                # Of a checkpoint that was taken elsewhere alone: its best is not to be had.
                state.best = None
            if not loop.is_complete:
                self.lock.sign()

    def _export(self, state: TrainingState) -> None:
        """Write the weights, the report and the result of a run that is over."""
        folder = self.folder
        metadata = self.task.metadata(self.settings, self.data, self.model)
        export_run(folder, state, metadata, self.options.half, self._score, self.task.exports_whole)
        is_over = folder.result.exists()
        if self.options.report and not (is_over and folder.report.exists()):
            self._report(state)
        if not is_over:
            folder.write_result(state.rows[-1], state.best)

    def _report(self, state: TrainingState) -> None:
        """Write the report, of all validation images and by this process alone."""
        finished = Finished(self.configuration, state.rows, state.best, self.folder.weights)
        parts = (self.options, self.settings, self.data, self.model, self.fabric)
        try:
            write_text(self.folder.report, self.task.report(*parts, finished))
        except Exception as error:  # all that the run is for is there
            print(f"{self.folder.report}: not written: {error}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _advised(folder: RunFolder) -> Iterator[None]:
    """Say in an error that a run can go on, and how."""
    advice = f"continue with --resume {folder.path}"
    try:
        yield
    except RunFileError as error:
        how = advice if folder.config.exists() else "start again"
        raise RunFileError(f"{error}, then {how}") from error
    except (RuntimeError, ConnectionError, EOFError) as error:
        # PyTorch reports the end of a loading process wherever the program happens to be; where it
        # is about to take a tensor's memory from it, the connection ends.
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise RuntimeError(f"a loading process has ended: {error}; {advice}") from error
