"""The work of a training step on its device, called eagerly or captured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from lightning.fabric import Fabric
from torch import Tensor

from ..capture.rates import DeviceRates
from ..capture.recorders import CudaGraphs
from ..capture.step import CapturedStep
from .loaders import TrainingData
from .state import scaler_of
from .trained import TrainingModule

__all__ = ["EagerSteps", "build_steps"]


@dataclass
class EagerSteps:
    """Takes steps by calling one operator after the other.

    Attributes
    ----------
    wrapped : tuple[Any, Any]
        Model and optimiser as `fabric.setup` gave them.
    accumulate : int
        Batches per optimiser step.
    """

    fabric: Fabric
    module: TrainingModule
    wrapped: tuple[Any, Any]
    data: TrainingData
    accumulate: int

    def set_rates(self) -> None:
        """Have the next steps use the rates that the optimiser's groups have now."""

    def add_batch(self, batch: Any, ends_step: bool) -> Tensor:
        """Add the gradients of a batch on the host, and return its loss, [] on the device.

        `ends_step` says that `optimise` follows: the processes' gradients are put together once per
        optimiser step.
        """
        return self._forward_backward(self.fabric.to_device(self.data.drawn(batch)), not ends_step)

    def optimise(self) -> None:
        """Clip, step and zero the gradients."""
        self._clip_and_step()
        self.wrapped[1].zero_grad()

    def _forward_backward(self, batch: tuple[Any, ...], is_alone: bool) -> Tensor:
        mixed = self.data.mix(*batch)
        with self.fabric.no_backward_sync(self.wrapped[0], enabled=is_alone):
            loss = self.module.training_step(mixed)
            self.fabric.backward(loss / self.accumulate)
        return loss

    def _clip_and_step(self) -> None:
        self.module.clip_gradients(scaler_of(self.fabric))
        self.wrapped[1].step()


@dataclass
class CapturedSteps(EagerSteps):
    """Takes steps by replaying CUDA graphs; see `capture.step`.

    The optimiser is a fused one: the others ask the device whether a scaled step overflowed, and
    take rates from the host. Several processes sum their gradients between the two graphs of a
    step.
    """

    def __post_init__(self) -> None:
        groups = self.module.optimizer.param_groups
        has_others = self.fabric.world_size > 1
        self._rates = DeviceRates(self.module.optimizer, self.fabric.device)
        self._step = CapturedStep(
            lambda batch: self._forward_backward(batch, is_alone=has_others),
            self._clip_and_step,
            [parameter for group in groups for parameter in group["params"]],
            CudaGraphs(),
            self._sum if has_others else None,
        )

    def set_rates(self) -> None:
        """Write the rates where replays read them."""
        self._rates.update()

    def add_batch(self, batch: Any, ends_step: bool) -> Tensor:
        """Add the gradients of a batch; the next one overwrites the loss."""
        return self._step.forward_backward(self.data.drawn(batch))

    def optimise(self) -> None:
        """Put the processes' gradients together, clip, step and zero."""
        self._step.optimise()

    def _sum(self, gradients: list[Tensor]) -> None:
        """Average the gradients of all processes."""
        for gradient in gradients:
            torch.distributed.all_reduce(gradient)
            gradient /= self.fabric.world_size


def build_steps(
    captured: bool,
    fabric: Fabric,
    module: TrainingModule,
    wrapped: tuple[Any, Any],
    data: TrainingData,
    accumulate: int,
) -> EagerSteps:
    """Return what takes steps, in CUDA graphs or not; the rest is as in `EagerSteps`."""
    kind = CapturedSteps if captured else EagerSteps
    return kind(fabric, module, wrapped, data, accumulate)
