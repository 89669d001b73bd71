"""SIGINT and SIGTERM: a run ends between two steps, with a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["RunStopped", "StopSignals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunStopped(KeyboardInterrupt):
    """A signal has ended a run, after it wrote a checkpoint to go on from.

    Attributes
    ----------
    number : int
        Of the signal; SIGTERM where another process of the run received it.
    epoch, global_step : int
        Where the checkpoint is.
    """

    def __init__(self, number: int, epoch: int, global_step: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"{name} after step {global_step}, in epoch {epoch}")
        self.number = number
        self.epoch = epoch
        self.global_step = global_step


class StopSignals:
    """While it is entered, a first signal is noted and a second one ends the process at once.

    In any other thread than the main one, where Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # None: a handler that Python has not set, and could not put back.
                if signal.getsignal(number) is not None:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
            # No print: the program may be in the middle of one.
            os.write(2, b"\nstopping after this step; once more ends at once\n")
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
