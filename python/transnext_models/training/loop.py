"""The loop of a training run: epochs, steps, validations, checkpoints between them.

Lightning Fabric handles devices, processes and precision; the loop is
written out here, because a run must be able to stop and resume between any two steps.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor

from . import history, progress
from .checkpoint_writer import CheckpointWriter
from .durable import RunFileError
from .interruption import RunStopped, StopSignals
from .loaders import TrainingData
from .loss_watch import LossWatch, NotFinite
from .random_numbers import seed_step
from .speed import Speed, duration
from .state import TrainingState
from .steps import EagerSteps
from .trained import TrainingModule

__all__ = ["Pace", "TrainingLoop"]

# What a process requests between two steps.
_NOTHING, _CHECKPOINT, _STOP, _UNWRITTEN = range(4)


@dataclass(frozen=True)
class Pace:
    """Lengths and intervals of a run.

    Attributes
    ----------
    epochs : int
        Of the run.
    accumulate : int
        Batches per optimiser step. Those at the end of an epoch that fill no step are left out.
    validate_every : int
        Epochs between two validations; the last epoch is always validated.
    checkpoint_every_steps, checkpoint_every_minutes
        Between two checkpoints within an epoch; None for none. Every epoch ends with one.
    early_stop : int | None
        Validations without a better one after which the run ends; None for never.
    """

    epochs: int
    accumulate: int
    validate_every: int
    checkpoint_every_steps: int | None
    checkpoint_every_minutes: float | None
    early_stop: int | None = None


class TrainingLoop:
    """Trains from where `state` is to the end.

    `callbacks` that have a method called `on_train_start`, `on_train_epoch_start`,
    `on_train_batch_end`, `on_validation_epoch_end`, `on_train_epoch_end` or `on_train_end` are
    called with this object and `module`; `on_train_batch_end` also with loss, batch and its number.

    Parameters
    ----------
    steps : EagerSteps
        What computes a step.
    writer : CheckpointWriter
        Writes checkpoints; called on the first process only.
    """

    def __init__(
        self,
        fabric: Fabric,
        module: TrainingModule,
        steps: EagerSteps,
        data: TrainingData,
        state: TrainingState,
        pace: Pace,
        writer: CheckpointWriter,
        callbacks: Sequence[Any] = (),
    ) -> None:
        self.fabric = fabric
        self.module = module
        self._steps = steps
        self.data = data
        self.state = state
        self.pace = pace
        self._writer = writer
        self._callbacks = callbacks
        self._signals = StopSignals()
        self._rate = 0.0
        self._began = (0.0, 0.0)
        self._saved_at = (0.0, (-1, -1, False))  # time, position
        self._watch = LossWatch(fabric.device)
        self.speed = Speed(data.batch_size * fabric.world_size)
        # Processes agree on the host, where no device has to be waited for.
        self._group: Any = None
        if fabric.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")

    @property
    def current_epoch(self) -> int:
        """The epoch in hand, from 0."""
        return self.state.epoch

    @property
    def global_step(self) -> int:
        """Optimiser steps since the start of the run."""
        return self.state.global_step

    @property
    def batches_per_epoch(self) -> int:
        """Training batches of an epoch on this process: whole optimiser steps only."""
        return self.data.batches_of_steps(self.pace.accumulate)

    @property
    def is_global_zero(self) -> bool:
        """Whether this process is the one that writes."""
        return self.fabric.is_global_zero

    @property
    def is_complete(self) -> bool:
        """Whether the last epoch is finished, or one after which it stops early."""
        is_last = self.state.epoch + 1 >= self.pace.epochs
        return self.state.finished and (is_last or self._stops_early)

    @property
    def _stops_early(self) -> bool:
        patience = self.pace.early_stop
        if patience is None:
            return False
        return history.validations_without_gain(self.state.rows, self.module.score) >= patience

    def fit(self) -> None:
        """Train until the run is complete.

        Raises
        ------
        RunStopped
            A signal asked to stop; a checkpoint is written.
        RunFileError
            A file of the run cannot be written.
        RuntimeError
            The loss is no longer finite, images cannot be read, a loading process died.
        """
        self._began = (time.perf_counter(), time.process_time())
        self._saved_at = (time.monotonic(), self._place())
        self.speed.begin(self._batches_left())
        with self._signals:
            self._call("on_train_start", self, self.module)
            while not self.is_complete:
                if self.state.finished:
                    self.state.next_epoch()
                self._train_epoch()
                self._finish_epoch()
                if not self.is_complete:
                    self._between_steps()
            self._on_first_process(self._writer.wait)
            self._call("on_train_end", self, self.module)

    def _call(self, hook: str, *arguments: Any) -> None:
        """Call the method `hook` of all callbacks that have it."""
        for callback in self._callbacks:
            method = getattr(callback, hook, None)
            if method is not None:
                method(*arguments)

    def _batches_left(self) -> int:
        """Training batches of the run on this process that are to come."""
        state, batches = self.state, self.batches_per_epoch
        begun = batches if state.finished else state.step * self.pace.accumulate
        return (self.pace.epochs - state.epoch) * batches - begun

    # -- training ---------------------------------------------------------------------------------

    def _train_epoch(self) -> None:
        """Take the epoch's optimiser steps that are left."""
        state, module, accumulate = self.state, self.module, self.pace.accumulate
        batches = self.batches_per_epoch
        first = state.step * accumulate
        self._set_rate(min(first, batches - 1) // accumulate)
        if first == 0:
            if module.fresh_scaler:
                state.reset_scaler()
            self._call("on_train_epoch_start", self, module)
        if first >= batches:
            return
        module.train()
        loaded = self.data.train_batches(state.epoch, first)
        self.speed.begin_epoch()
        title, shown = f"epoch {state.epoch}", self.is_global_zero
        with progress.progress_shown(title, first, batches, self.speed, shown) as advance:
            for index in range(first, batches):
                ends_step = (index + 1) % accumulate == 0
                if module.changes_rate_in_epochs and index % accumulate == 0:
                    self._set_rate(index // accumulate)
                with self.speed.waiting():
                    batch = next(loaded)
                self._train_batch(batch, index, ends_step)
                self.speed.batch_done()
                advance()
                if ends_step:
                    self._between_steps()

    def _set_rate(self, step: int) -> None:
        """Have the next optimiser steps use the rate of this one of the epoch."""
        self._rate = self.module.set_rate(self.state.epoch, step)
        self._steps.set_rates()

    def _train_batch(self, loaded: Any, index: int, ends_step: bool) -> None:
        """Forward and backward of batch `index` of the epoch, and the optimiser where it is due."""
        state, module, fabric = self.state, self.module, self.fabric
        step = state.epoch * self.data.batches_per_epoch + index
        with self.speed.stepping():
            seed_step(self.data.seed, step, fabric.global_rank)
            batch = self.data.training_batch(loaded)
            loss = self._steps.add_batch(batch, ends_step)
            state.add_loss(loss, self.data.count(batch))
            self._watch.note(loss, state.epoch, state.global_step + 1, self._rate)
            if ends_step:
                self._steps.optimise()
                state.step_done()
        self._call("on_train_batch_end", self, module, loss, batch, index)

    # -- the end of an epoch ----------------------------------------------------------------------

    def _finish_epoch(self) -> None:
        """Validate, record and save the epoch whose steps are done."""
        state = self.state
        self._check_losses(self._watch.all_found())
        loss, images = self._summed(state.loss)
        row: history.Row = {
            "epoch": state.epoch,
            "step": state.global_step,
            "lr": self._rate,
            "train_loss": loss / images,
        }
        speed = self.speed.epoch_images_per_second
        if self.is_global_zero:
            progress.warn_of_waiting(state.epoch, self.data.workers, *self.speed.waited)
        is_last = state.epoch + 1 == self.pace.epochs
        is_best = False
        if is_last or (state.epoch + 1) % self.pace.validate_every == 0:
            row |= self._validate()
            name = self.module.score
            # As published: of several that are equally good, the last.
            is_best = state.best is None or row[name] >= state.best[name]
            if is_best:
                state.best = {"epoch": state.epoch, name: row[name]}
        row["seconds"] = round(time.perf_counter() - self._began[0], 1)
        row["cpu_seconds"] = round(time.process_time() - self._began[1], 1)
        row["images_per_second"] = round(speed, 2)
        state.rows.append(row)
        state.finished = True
        self._save(is_best)
        if self.is_global_zero:
            history.show(row, duration(self.speed.seconds_left))
            if self._stops_early and not is_last:
                print(
                    f"early stop: {self.pace.early_stop} validations without a better one",
                    file=sys.stderr,
                    flush=True,
                )
        self._call("on_train_epoch_end", self, self.module)

    def _validate(self) -> dict[str, float]:
        """Evaluate the weights in use on every validation image once."""
        model = self.state.evaluated.eval()
        measures = self.module.measures(model, self.fabric)
        with torch.no_grad():
            for loaded in self.data.val_batches():
                measures.add(self.fabric.to_device(self.data.validation_batch(loaded)))
                # The processes' shares differ by an image: only a single one stops in between.
                if self._group is None and self._signals.received is not None:
                    self._between_steps()
        measured = measures.result()
        self._call("on_validation_epoch_end", self, self.module)
        return measured

    def _summed(self, sums: Tensor) -> list[float]:
        """Return the sums of all processes together."""
        total = self.fabric.all_reduce(sums.clone(), reduce_op="sum")
        assert isinstance(total, Tensor)
        return [float(value) for value in total.tolist()]

    def _check_losses(self, problem: NotFinite | None) -> None:
        """Raise on all processes where the loss of any is no longer finite."""
        self._stop_unless_finite(problem, self._agreed(_NOTHING, problem)[1])

    def _stop_unless_finite(self, problem: NotFinite | None, anywhere: bool) -> None:
        if not anywhere:
            return
        if self._group is not None:
            problems: list[NotFinite | None] = [None] * self.fabric.world_size
            torch.distributed.all_gather_object(problems, problem, self._group)
            problem = next(each for each in problems if each is not None)
        raise RuntimeError(str(problem))

    # -- checkpoints ------------------------------------------------------------------------------

    def _between_steps(self) -> None:
        """Write a checkpoint and stop, if that is due or asked for."""
        problem = self._watch.found()
        wish, is_lost = self._agreed(self._wish(), problem)
        self._stop_unless_finite(problem, is_lost)
        if wish == _UNWRITTEN:
            self._on_first_process(self._writer.wait)
        if wish != _NOTHING and self._place() != self._saved_at[1]:
            self._check_losses(self._watch.all_found())  # no such weights over good ones
            self._save(is_best=False)
        if wish == _STOP:
            self._on_first_process(self._writer.wait)
            number = self._signals.received or signal.SIGTERM
            raise RunStopped(number, self.state.epoch, self.state.global_step)

    def _wish(self) -> int:
        if self._writer.has_failed:
            return _UNWRITTEN
        if self._signals.received is not None:
            return _STOP
        steps, minutes = self.pace.checkpoint_every_steps, self.pace.checkpoint_every_minutes
        if steps is not None and self.state.step and self.state.global_step % steps == 0:
            return _CHECKPOINT
        # One clock decides for all.
        if minutes is not None and self.is_global_zero:
            return _CHECKPOINT if time.monotonic() - self._saved_at[0] >= 60 * minutes else _NOTHING
        return _NOTHING

    def _agreed(self, wish: int, problem: NotFinite | None) -> tuple[int, bool]:
        """Return the strongest wish of all processes, and whether any has a problem."""
        if self._group is None:
            return wish, problem is not None
        agreed = torch.tensor([wish, problem is not None], dtype=torch.int64)
        torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX, self._group)
        strongest, any_problem = agreed.tolist()
        return strongest, bool(any_problem)

    def _place(self) -> tuple[int, int, bool]:
        return self.state.epoch, self.state.step, self.state.finished

    def _save(self, is_best: bool) -> None:
        """Write the newest checkpoint and, after an epoch, what follows from it."""
        content = self.state.content()
        self._on_first_process(lambda: self._writer.save(content, is_best))
        self._saved_at = (time.monotonic(), self._place())

    def _on_first_process(self, write: Callable[[], None]) -> None:
        """Call `write` on the first process; where that fails, all of them give up."""
        fault = None
        if self.is_global_zero:
            try:
                write()
            except RunFileError as error:
                fault = str(error)
        # The others must not wait for a process that has given up.
        fault = self.fabric.broadcast(fault)
        if fault is not None:
            raise RunFileError(fault)
