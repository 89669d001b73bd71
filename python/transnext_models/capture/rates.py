"""Learning rates where replays read them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["DeviceRates"]


class DeviceRates:
    """Keeps each group's learning rate in a tensor of its own, whose memory stays.

    A recorded step would use the number that a rate was in its recording for ever.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._groups = optimizer.param_groups
        self._rates = [torch.zeros((), device=device) for _ in self._groups]

    def update(self) -> None:
        """Write the rates that the groups have now, numbers or tensors, and put ours there."""
        for group, rate in zip(self._groups, self._rates, strict=True):
            now = group["lr"]
            if now is rate:  # a scheduler has filled it
                continue
            if isinstance(now, Tensor):
                rate.copy_(now, non_blocking=True)
            else:
                rate.fill_(now)
            group["lr"] = rate
