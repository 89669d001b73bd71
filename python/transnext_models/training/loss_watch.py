"""A loss that is no longer finite is found within a few steps, without waiting for the device."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LossWatch", "NotFinite"]


@dataclass(frozen=True)
class NotFinite:
    """A loss that is not finite: its value, and the step and the rate that gave it."""

    loss: float
    epoch: int
    step: int
    rate: float

    def __str__(self) -> str:
        return (
            f"the loss of epoch {self.epoch}, step {self.step} (learning rate {self.rate:.3g}) is "
            f"{self.loss}: lower --lr, or resume from an earlier checkpoint"
        )


@dataclass
class _Noted:
    """A loss on its way to the host, and the event after which it is there (None: now)."""

    copy: Tensor
    arrived: torch.cuda.Event | None
    epoch: int
    step: int
    rate: float


class LossWatch:
    """Takes every loss, and looks at those that have reached the host meanwhile.

    A loss is copied to pinned memory behind the step that computes it, and looked at one or more
    steps later, when the copy is there anyway. Only a host that runs `MOST` steps ahead of its
    device waits: then the device is busy.

    Parameters
    ----------
    device : torch.device
        Where the losses are.
    """

    MOST = 8

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._noted: deque[_Noted] = deque()

    def note(self, loss: Tensor, epoch: int, step: int, rate: float) -> None:
        """Take the loss of a batch, a tensor without dimensions."""
        loss = loss.detach()
        arrived = None
        if self._is_cuda:
            copy = torch.empty_like(loss, device="cpu", pin_memory=True)
            copy.copy_(loss, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        else:
            copy = loss.clone()
        self._noted.append(_Noted(copy, arrived, epoch, step, rate))

    def found(self) -> NotFinite | None:
        """Return the first loss that is not finite among those looked at now, None without."""
        # Of a device without pinned copies, the newest loss is left to itself for a step.
        while len(self._noted) > 1:
            oldest = self._noted[0]
            waited_for = len(self._noted) > self.MOST
            if oldest.arrived is not None and not waited_for and not oldest.arrived.query():
                return None
            if (problem := self._look()) is not None:
                return problem
        return None

    def all_found(self) -> NotFinite | None:
        """Wait for all losses; as `found`."""
        while self._noted:
            if (problem := self._look()) is not None:
                return problem
        return None

    def _look(self) -> NotFinite | None:
        oldest = self._noted.popleft()
        if oldest.arrived is not None:
            oldest.arrived.synchronize()
        value = float(oldest.copy)
        if value - value == 0:  # neither infinite nor NaN
            return None
        return NotFinite(value, oldest.epoch, oldest.step, oldest.rate)
