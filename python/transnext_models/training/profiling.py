"""`--profile`: where the time of a few training steps goes, written into the folder of the run.

The run goes on afterwards, and ends in the weights of one without a profile.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.profiler_util import EventList
from torch.profiler import ProfilerActivity, profile, schedule

from .durable import write_text

if TYPE_CHECKING:
    from .loop import TrainingLoop

__all__ = ["FOLDER", "ProfiledSteps", "Shares"]

FOLDER = "profile"
_SETTLED = 5  # optimiser steps before: compilers, allocations, the recording of a captured step
_BATCHES = 10
_ROWS = 30


@dataclass(frozen=True)
class Shares:
    """Where the time of the training process went, in seconds.

    Attributes
    ----------
    batches : int
        That were profiled.
    total : float
        From the end of the batch before them to that of the last.
    waiting, step : float
        Waiting for the loader; calling the work of the step.
    device : float | None
        That an accelerator was busy; None on a CPU.
    """

    batches: int
    total: float
    waiting: float
    step: float
    device: float | None

    def __str__(self) -> str:
        """Return one line for people."""
        parts = {
            "waiting for the loader": self.waiting,
            "step": self.step,
            "rest": self.total - self.waiting - self.step,
        }
        shares = ", ".join(f"{name} {part / self.total:.1%}" for name, part in parts.items())
        busy = "" if self.device is None else f"; device busy {self.device / self.total:.1%}"
        each = 1e3 * self.total / self.batches
        return f"{self.batches} batches of {each:.1f} ms each: {shares}{busy}"


class ProfiledSteps:
    """A callback of the loop that profiles some batches of one epoch once the run has settled.

    Parameters
    ----------
    folder : Path
        Of the run.
    accumulate : int
        Batches per optimiser step; whole steps are profiled.
    """

    def __init__(self, folder: Path, accumulate: int) -> None:
        self._folder = folder / FOLDER
        self._accumulate = accumulate
        self._settling = _SETTLED * accumulate
        self._wanted = -(-_BATCHES // accumulate) * accumulate
        self._profile: profile | None = None
        self._until = 0  # so many batches are left before the next change
        self._measured = 0
        self._began = (0.0, 0.0, 0.0)  # time, seconds of the epoch spent on waiting and on steps
        self._is_over = False

    def on_train_start(self, loop: TrainingLoop, module: Any) -> None:
        """Set up CUDA's profiler before a graph is recorded, whose kernels it else may not know."""
        device = loop.fabric.device
        if loop.is_global_zero and device.type == "cuda":
            # As torch.profiler itself does around graphs of PyTorch's compiler: they do not survive
            # that CUPTI is taken down and set up again.
            os.environ.setdefault("DISABLE_CUPTI_LAZY_REINIT", "1")
            os.environ.setdefault("TEARDOWN_CUPTI", "0")
            with profile(activities=_activities(device)):
                torch.accelerator.synchronize()

    def on_train_batch_end(
        self, loop: TrainingLoop, module: Any, loss: Any, batch: Any, index: int
    ) -> None:
        """Begin, go on or end at the end of batch `index` of the epoch."""
        if self._is_over or not loop.is_global_zero:
            return
        if self._profile is None:
            self._settling -= 1
            left = loop.batches_per_epoch - index - 1
            # The first step under a profiler is slower than the others.
            if self._settling <= 0 and left >= 2 * self._accumulate and self._ends_step(index):
                self._begin(loop, min(self._wanted, left - self._accumulate))
            return
        self._until -= 1
        if self._until == 0:
            self._end(loop)
            return
        self._profile.step()
        if self._until == self._measured:
            self._began = (time.perf_counter(), *loop.speed.spent)

    def on_train_end(self, loop: TrainingLoop, module: Any) -> None:
        """Say where a run was too short."""
        if loop.is_global_zero and not self._is_over:
            _say(
                f"nothing was profiled: that takes {_SETTLED} optimiser steps to settle and two "
                "more in the same epoch"
            )

    def _ends_step(self, index: int) -> bool:
        return (index + 1) % self._accumulate == 0

    def _begin(self, loop: TrainingLoop, batches: int) -> None:
        self._measured = batches
        self._until = self._accumulate + batches
        self._profile = profile(
            activities=_activities(loop.fabric.device),
            schedule=schedule(wait=0, warmup=self._accumulate, active=batches, repeat=1),
            acc_events=True,
        )
        self._profile.start()

    def _end(self, loop: TrainingLoop) -> None:
        """Stop, and write the trace, the shares and the table; the run goes on whatever happens."""
        assert self._profile is not None
        is_cpu = loop.fabric.device.type == "cpu"
        if not is_cpu:
            torch.accelerator.synchronize()
        now = (time.perf_counter(), *loop.speed.spent)
        self._profile.stop()
        total, waiting, step = (end - start for start, end in zip(self._began, now, strict=True))
        events = self._profile.key_averages()
        busy = None if is_cpu else sum(event.self_device_time_total for event in events) / 1e6
        shares = Shares(self._measured, total, waiting, step, busy)
        try:
            self._folder.mkdir(exist_ok=True)
            self._profile.export_chrome_trace(str(self._folder / "trace.json.gz"))
            write_text(self._folder / "operators.txt", f"{shares}\n\n{_table(events, is_cpu)}\n")
        except (OSError, RuntimeError) as error:
            _say(f"{shares}; not written: {error}")
        else:
            _say(f"{shares}; operators and trace are in {self._folder}")
        self._profile = None
        self._is_over = True


def _activities(device: torch.device) -> list[ProfilerActivity]:
    others = {"cuda": ProfilerActivity.CUDA, "xpu": ProfilerActivity.XPU}
    return [ProfilerActivity.CPU, *([others[device.type]] if device.type in others else [])]


def _table(events: EventList, is_cpu: bool) -> str:
    """Return the operators that take most of the time by themselves, not by what they call."""
    key = "self_cpu_time_total" if is_cpu else "self_device_time_total"
    table: str = events.table(sort_by=key, row_limit=_ROWS, max_name_column_width=80)
    return table


def _say(text: str) -> None:
    print(f"profile: {text}", file=sys.stderr, flush=True)
