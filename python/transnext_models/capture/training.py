"""Training steps of one's own loop in CUDA graphs, one for each shape of batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .rates import DeviceRates
from .recorders import CudaGraphs, Recorder, has_graphs
from .replayed import check_graphs
from .step import CapturedStep

__all__ = ["CapturedTraining", "capture_training"]

# What an optimiser says of itself where its step asks the host for nothing.
_ON_THE_DEVICE = ("fused", "capturable")


class CapturedTraining:
    """A training step; see `capture_training`."""

    def __init__(
        self,
        loss: Callable[..., Tensor],
        optimizer: torch.optim.Optimizer,
        *,
        scaler: torch.amp.GradScaler | None = None,
        max_norm: float | None = None,
        graphs: int = 4,
        recorder: Recorder | None = None,
    ) -> None:
        check_graphs(graphs)
        self._loss = loss
        self._optimizer = optimizer
        self._scaler = scaler
        self._max_norm = max_norm
        self._parameters = [each for group in optimizer.param_groups for each in group["params"]]
        devices = {each.device for each in self._parameters}
        if len(devices) != 1:
            named = ", ".join(sorted(map(str, devices))) or "none"
            raise ValueError(f"optimizer: got parameters on {named}, needs all on one device")
        (self._device,) = devices
        if recorder is None and has_graphs(self._device):
            recorder = CudaGraphs()
        self._captured: CapturedStep | None = None
        if recorder is not None:
            self._check_optimizer()
            self._rates = DeviceRates(optimizer, self._device)
            self._captured = CapturedStep(
                self._forward_backward, self._step, self._parameters, recorder, shapes=graphs
            )

    def __call__(self, *batch: Tensor, ends_step: bool = True) -> Tensor:
        """Add the gradients of a batch, and step.

        Parameters
        ----------
        *batch : Tensor
            The arguments of `loss`, on the device or on the host (pinned, to be copied meanwhile).
        ends_step : bool
            False adds the gradients alone: to accumulate several batches.

        Returns
        -------
        Tensor
            The loss, [] on the device.
        """
        if self._captured is None:
            loss = self._forward_backward(tuple(part.to(self._device) for part in batch)).detach()
            if ends_step:
                self._step()
                self._optimizer.zero_grad()
            return loss
        loss = self._captured.forward_backward(batch).clone()
        if ends_step:
            self._rates.update()
            self._captured.optimise()
        return loss

    def _forward_backward(self, batch: tuple[Tensor, ...]) -> Tensor:
        loss = self._loss(*batch)
        if not isinstance(loss, Tensor) or loss.ndim:
            got = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"loss: got {got}, needs a function that returns a tensor of shape []")
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()
        return loss

    def _step(self) -> None:
        scaler = self._scaler
        if self._max_norm is not None:
            if scaler is not None:
                scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
        if scaler is None:
            self._optimizer.step()
        else:
            scaler.step(self._optimizer)
            scaler.update()

    def _check_optimizer(self) -> None:
        group = self._optimizer.param_groups[0]
        if not any(group.get(name) for name in _ON_THE_DEVICE):
            kind = type(self._optimizer).__name__
            known = [name for name in _ON_THE_DEVICE if name in group]
            needs = " or ".join(f"{name}=True" for name in known) or "one with fused=True"
            raise ValueError(
                f"optimizer: got {kind}, whose step waits for the device; needs {needs}"
            )
        if self._scaler is not None and self._scaler.is_enabled() and not group.get("fused"):
            raise ValueError(
                "optimizer: got one whose scaled step waits for the device, needs fused=True with "
                "scaler"
            )


def capture_training(
    loss: Callable[..., Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    scaler: torch.amp.GradScaler | None = None,
    max_norm: float | None = None,
    graphs: int = 4,
    recorder: Recorder | None = None,
) -> CapturedTraining:
    """Return a training step that is replayed from CUDA graphs.

        step = capture_training(lambda x, y: F.cross_entropy(model(x), y), optimizer)
        for images, labels in loader:
            loss = step(images, labels)

    The first three steps of a shape run eagerly, then its forward and backward pass is recorded;
    so is the optimiser's step, once. Random numbers (dropout, drop path) are drawn anew in every
    replay; learning rates may change between steps. On a CPU every step is eager.

    Parameters
    ----------
    loss : callable
        From a batch's tensors to the loss, float []; autocast belongs in here. It is recorded:
        what it does on the host happens in the recording alone, and it may not wait for the device
        (no ``item()``).
    optimizer : Optimizer
        With ``fused=True`` or ``capturable=True``, all parameters on one device. From here on their
        gradients lie in one buffer that is zeroed, never set to None.
    scaler : GradScaler, optional
        Of float16.
    max_norm : float, optional
        Clips the gradients to this L2 norm.
    graphs : int
        Shapes of batches that are recorded, those used last.
    recorder : Recorder, optional
        What records; None is CUDA graphs on a GPU, nothing elsewhere.

    Returns
    -------
    CapturedTraining

    Raises
    ------
    ValueError
        An argument cannot be used; the message names it.
    """
    return CapturedTraining(
        loss, optimizer, scaler=scaler, max_norm=max_norm, graphs=graphs, recorder=recorder
    )
