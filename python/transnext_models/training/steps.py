"""The work of a training step on its device, called eagerly or captured."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from lightning.fabric import Fabric
from torch import Tensor

from .captured_step import CapturedStep, CudaGraphs
from .loaders import TrainingData
from .module import ClassifierModule

__all__ = ["EagerSteps", "build_steps"]


class EagerSteps:
    """Takes steps by calling one operator after the other.

    Parameters
    ----------
    wrapped : tuple[Any, Any]
        Model and optimiser as `fabric.setup` gave them.
    accumulate : int
        Batches per optimiser step.
    """

    def __init__(
        self,
        fabric: Fabric,
        module: ClassifierModule,
        wrapped: tuple[Any, Any],
        data: TrainingData,
        accumulate: int,
    ) -> None:
        self._fabric = fabric
        self._module = module
        self._network, self._optimizer = wrapped
        self._data = data
        self._accumulate = accumulate

    def set_rates(self) -> None:
        """Have the next steps use the rates that the optimiser's groups have now."""

    def add_batch(self, batch: tuple[Tensor, ...], ends_step: bool) -> Tensor:
        """Add the gradients of a batch on the host, and return its loss, [] on the device.

        `ends_step` says that `optimise` follows: the processes' gradients are put together once per
        optimiser step.
        """
        return self._forward_backward(self._fabric.to_device(batch), is_alone=not ends_step)

    def optimise(self) -> None:
        """Clip, step and zero the gradients."""
        self._clip_and_step()
        self._optimizer.zero_grad()

    def _forward_backward(self, batch: tuple[Tensor, ...], is_alone: bool) -> Tensor:
        mixed = self._data.mix(*batch)
        with self._fabric.no_backward_sync(self._network, enabled=is_alone):
            loss = self._module.training_step(mixed)
            self._fabric.backward(loss / self._accumulate)
        return loss

    def _clip_and_step(self) -> None:
        scaler = getattr(self._fabric.strategy.precision, "scaler", None)
        self._module.clip_gradients(scaler)
        self._optimizer.step()


class CapturedSteps(EagerSteps):
    """Takes steps by replaying CUDA graphs; see `captured_step`.

    The optimiser is a fused one: the others ask the device whether a scaled step overflowed, and
    take rates from the host. Several processes sum their gradients between the two graphs of a
    step.
    """

    def __init__(
        self,
        fabric: Fabric,
        module: ClassifierModule,
        wrapped: tuple[Any, Any],
        data: TrainingData,
        accumulate: int,
    ) -> None:
        super().__init__(fabric, module, wrapped, data, accumulate)
        groups = module.optimizer.param_groups
        self._rates = [torch.zeros((), device=fabric.device) for _ in groups]
        self._step = CapturedStep(
            lambda batch: self._forward_backward(batch, is_alone=fabric.world_size > 1),
            self._clip_and_step,
            [parameter for group in groups for parameter in group["params"]],
            CudaGraphs(),
            self._sum if fabric.world_size > 1 else None,
        )

    def set_rates(self) -> None:
        """Write the rates where replays read them."""
        for group, rate in zip(self._module.optimizer.param_groups, self._rates, strict=True):
            rate.fill_(float(group["lr"]))
            group["lr"] = rate

    def add_batch(self, batch: tuple[Tensor, ...], ends_step: bool) -> Tensor:
        """Add the gradients of a batch; the next one overwrites the loss."""
        return self._step.forward_backward(batch, self._fabric.device)

    def optimise(self) -> None:
        """Put the processes' gradients together, clip, step and zero."""
        self._step.optimise()

    def _sum(self, gradients: list[Tensor]) -> None:
        """Average the gradients of all processes."""
        for gradient in gradients:
            torch.distributed.all_reduce(gradient)
            gradient /= self._fabric.world_size


def build_steps(captured: bool, *parts: Any) -> EagerSteps:
    """Return what takes steps, in CUDA graphs or not; `parts` are those of `EagerSteps`."""
    return CapturedSteps(*parts) if captured else EagerSteps(*parts)
