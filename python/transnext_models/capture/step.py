"""A training step that is recorded once and replayed, without launches from Python.

Called eagerly, a step of TransNeXt is well over a thousand kernel launches, and the GPU waits for
them. Recorded into CUDA graphs it is two replays. What differs from step to step (images, labels,
the numbers of mixup, the learning rates) lies in tensors whose memory stays; random numbers come
from the device's generator, whose seed a replay reads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from .recorders import Recorder, Work
from .replayed import LastUsed, Replayed

__all__ = ["CapturedStep"]

_Key: TypeAlias = "tuple[tuple[torch.dtype, torch.Size], ...]"

_ALIGNMENT = 64  # the starts of gradients are multiples of so many elements, for vector loads
_WARM_UP = 3


class CapturedStep:
    """Runs the two halves of a step: a batch's forward and backward, and the optimiser.

    The first steps run eagerly; they are steps of the run like any other. Then each half is
    recorded, and from there on replayed.

    Parameters
    ----------
    forward_backward : Callable[[tuple[Tensor, ...]], Tensor]
        Takes a batch's tensors, adds to the parameters' gradients, returns the loss, float [].
    optimise : Callable[[], None]
        Clips and steps, in place. The gradients are zeroed here.
    parameters : list[Tensor]
        What gets gradients. Those of one dtype lie in one buffer, whose memory stays.
    recorder : Recorder
        `CudaGraphs()` on a GPU.
    between : Callable[[list[Tensor]], None] | None
        Runs between the halves of an optimiser step, eagerly, on the buffers of all gradients: the
        sum over processes.
    shapes : int
        Shapes of batches that are recorded, those used last; each takes memory.

    Raises
    ------
    RuntimeError
        Of one shape: a batch has other shapes or dtypes than the first.
    """

    def __init__(
        self,
        forward_backward: Callable[[tuple[Tensor, ...]], Tensor],
        optimise: Work,
        parameters: list[Tensor],
        recorder: Recorder,
        between: Callable[[list[Tensor]], None] | None = None,
        shapes: int = 1,
    ) -> None:
        self._compute = forward_backward
        self._parameters = parameters
        self._recorder = recorder
        self._between = between
        self._shapes: LastUsed[_BatchWork] = LastUsed(shapes)
        self._loss = torch.empty(())
        self._gradients: list[Tensor] = []
        self._optimise_in_place = optimise
        self._optimise = Replayed(self._run_optimiser, _WARM_UP)

    def forward_backward(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Add a batch's gradients; `batch` may lie on the host, pinned.

        Returns
        -------
        The loss, float32 [] on the device, overwritten by the next batch.
        """
        if not self._gradients:
            self._loss = torch.zeros((), device=self._parameters[0].device)
            self._gradients = _zero_gradients(self._parameters)
        found = self._of_shape(batch)
        for buffer, part in zip(found.batch, batch, strict=True):
            buffer.copy_(part, non_blocking=True)
        found.work(self._recorder)
        return self._loss

    def optimise(self) -> None:
        """Step by the gradients added since the last call, and zero them."""
        if self._between is not None:
            self._between(self._gradients)
        self._optimise(self._recorder)

    def _of_shape(self, batch: tuple[Tensor, ...]) -> _BatchWork:
        key = tuple((part.dtype, part.shape) for part in batch)
        known = self._shapes
        if known.most == 1 and known.values and key not in known.values:
            (other,) = known.values
            raise RuntimeError(_other_shape(key, other))  # type: ignore[arg-type]
        return known.get(key, lambda: self._made_for(batch))

    def _made_for(self, batch: tuple[Tensor, ...]) -> _BatchWork:
        device = self._parameters[0].device
        buffers = tuple(torch.empty_like(part, device=device) for part in batch)
        return _BatchWork(buffers, Replayed(lambda: self._run_batch(buffers), _WARM_UP))

    def _run_batch(self, batch: tuple[Tensor, ...]) -> None:
        self._loss.copy_(self._compute(batch).detach())

    def _run_optimiser(self) -> None:
        self._optimise_in_place()
        for gradients in self._gradients:
            gradients.zero_()


@dataclass(frozen=True)
class _BatchWork:
    """Where batches of a shape lie, and what is done with one."""

    batch: tuple[Tensor, ...]
    work: Replayed


def _other_shape(got: _Key, needs: _Key) -> str:
    texts = [[f"{dtype} {list(shape)}" for dtype, shape in key] for key in (got, needs)]
    differing = [pair for pair in zip(*texts, strict=False) if pair[0] != pair[1]]
    here, first = differing[0] if differing else (f"{len(each)} tensors" for each in texts)
    return f"a captured step takes batches of one shape: got {here}, needs {first}"


def _zero_gradients(parameters: list[Tensor]) -> list[Tensor]:
    """Give parameters gradients of zeros, views of one buffer for each dtype and device."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for parameter in parameters:
        kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    buffers = []
    for (dtype, device), alike in kinds.items():
        sizes = [-(-each.numel() // _ALIGNMENT) * _ALIGNMENT for each in alike]
        buffer = torch.zeros(sum(sizes), dtype=dtype, device=device)
        for parameter, start in zip(alike, itertools.accumulate([0, *sizes]), strict=False):
            parameter.grad = buffer[start : start + parameter.numel()].view_as(parameter)
        buffers.append(buffer)
    return buffers
