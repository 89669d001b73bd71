"""The state that decides how a run continues, and its form in a checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .checkpoint_files import FORMAT
from .history import Row
from .optimisation import whole_state

__all__ = ["PREFIX", "TrainingState", "scaler_of"]

PREFIX = "model."  # before the names of parameters in a checkpoint, as Lightning's trainer has it


def scaler_of(fabric: Fabric) -> torch.amp.GradScaler | None:
    """Return the gradient scaler of float16; None in any other precision."""
    return getattr(fabric.strategy.precision, "scaler", None)


class TrainingState:
    """Weights, optimiser, averages, and the position in a run.

    Parameters
    ----------
    fabric : Fabric
        Launched.
    model : nn.Module
        On its device, not wrapped.
    optimizer : torch.optim.Optimizer
        Of its parameters, not wrapped.
    ema_decay : float | None
        Decay per step of the averaged weights; None for none.

    Attributes
    ----------
    epoch
        The epoch in hand, from 0.
    step
        Its optimiser steps that are done.
    finished
        Whether the epoch is validated and recorded too.
    global_step
        Optimiser steps since the start of the run.
    loss
        Float64 [2], sum over the epoch's images of this process so far, and their number.
    rows
        What was measured, one row per finished epoch.
    best
        Epoch and score of the best validation; None before the first.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        ema_decay: float | None,
    ) -> None:
        self._fabric = fabric
        self.model = model
        self.optimizer = optimizer
        self.averaged: AveragedModel | None = None
        if ema_decay is not None:
            average = get_ema_multi_avg_fn(ema_decay)
            self.averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
            # Every update looks at it: on the host no device has to be waited for.
            self.averaged.n_averaged = self.averaged.n_averaged.cpu()
        self.epoch = 0
        self.step = 0
        self.finished = False
        self.global_step = 0
        # Metal has no float64.
        dtype = torch.float32 if fabric.device.type == "mps" else torch.float64
        self.loss = torch.zeros(2, dtype=dtype, device=fabric.device)
        scaler = self.scaler
        self._first_scale = 1.0 if scaler is None else scaler.state_dict()["scale"]
        self.rows: list[Row] = []
        self.best: dict[str, float] | None = None

    @property
    def evaluated(self) -> nn.Module:
        """The model whose weights are validated and exported: the averaged one if there is one."""
        return self.model if self.averaged is None else self.averaged.module

    def add_loss(self, loss: Tensor, images: int) -> None:
        """Count the mean loss of a batch."""
        self.loss[0] += loss.detach().to(self.loss.dtype) * images
        self.loss[1] += images

    def step_done(self) -> None:
        """Count an optimiser step, and average the weights."""
        self.step += 1
        self.global_step += 1
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """The gradient scaler of float16; None in any other precision."""
        return scaler_of(self._fabric)

    def reset_scaler(self) -> None:
        """Give the gradient scaler the scale with which it starts."""
        if self.scaler is not None:
            fresh = {"scale": self._first_scale, "_growth_tracker": 0}
            self.scaler.load_state_dict({**self.scaler.state_dict(), **fresh})

    def next_epoch(self) -> None:
        """Begin the epoch after a finished one."""
        self.epoch += 1
        self.step = 0
        self.finished = False
        self.loss.zero_()

    def content(self) -> dict[str, Any]:
        """Return what a checkpoint holds, plain data and tensors. All processes call it together.

        The first one's is whole.

        ``state_dict`` are the weights to use, as `transnext classify --weights` finds them;
        ``training`` has what only going on needs.
        """
        losses = self._fabric.all_gather(self.loss)
        assert isinstance(losses, Tensor)
        training: dict[str, Any] = {
            "step": self.step,
            "finished": self.finished,
            "loss": losses.reshape(-1, 2).cpu(),
            "rows": self.rows,
            "best": self.best,
            "precision": self._fabric.strategy.precision.state_dict(),
        }
        if self.averaged is not None:
            training["weights"] = _named(self.model)
            training["averages"] = int(self.averaged.n_averaged)
        return {
            "format": FORMAT,
            "epoch": self.epoch,
            "global_step": self.global_step,
            "state_dict": _named(self.evaluated),
            "optimizer_states": [whole_state(self.optimizer, self._fabric.is_global_zero)],
            "training": training,
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Restore what `content` returned, in this process or an earlier one."""
        training = content["training"]
        _load(self.model, training.get("weights", content["state_dict"]))
        if self.averaged is not None:
            _load(self.averaged.module, content["state_dict"])
            self.averaged.n_averaged.fill_(training["averages"])
        self.optimizer.load_state_dict(content["optimizer_states"][0])
        self._fabric.strategy.precision.load_state_dict(training["precision"])
        self.epoch = content["epoch"]
        self.step = training["step"]
        self.finished = training["finished"]
        self.global_step = content["global_step"]
        self.rows = training["rows"]
        self.best = training["best"]
        losses = training["loss"]
        if len(losses) == self._fabric.world_size:
            self.loss.copy_(losses[self._fabric.global_rank])
        elif self._fabric.is_global_zero:  # begun by another number of processes
            self.loss.copy_(losses.sum(dim=0))


def _named(model: nn.Module) -> dict[str, Tensor]:
    return {PREFIX + name: value for name, value in model.state_dict().items()}


def _load(model: nn.Module, named: dict[str, Tensor]) -> None:
    model.load_state_dict({name.removeprefix(PREFIX): value for name, value in named.items()})
