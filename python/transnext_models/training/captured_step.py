"""A training step that is recorded once and replayed, without launches from Python.

Called eagerly, a step of TransNeXt is well over a thousand kernel launches, and the GPU waits for
them. Recorded into CUDA graphs it is two replays. What differs from step to step (images, labels,
the numbers of mixup, the learning rates) lies in tensors whose memory stays; random numbers come
from the device's generator, whose seed a replay reads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["CapturedStep", "CudaGraphs", "Recorder", "has_graphs"]

Work = Callable[[], None]

_ALIGNMENT = 64  # the starts of gradients are multiples of so many elements, for vector loads
_WARM_UP = 3  # steps before one is recorded: allocations and choices of algorithms settle


class Recorder(Protocol):
    """Runs and records work on tensors whose memory stays."""

    def run(self, work: Work) -> None:
        """Do the work as it will be recorded."""

    def record(self, work: Work) -> Work:
        """Record the work without doing it; return what does it."""


def has_graphs(device: torch.device) -> bool:
    """Whether `CudaGraphs` records work on a device."""
    return device.type == "cuda"


class CudaGraphs:
    """Records CUDA graphs, which share one memory pool."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()

    def run(self, work: Work) -> None:
        """Run on the stream of the recordings, which what autograd keeps then belongs to."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)

    def record(self, work: Work) -> Work:
        """Return the replay of a new graph."""
        graph = torch.cuda.CUDAGraph()
        # A loader's thread pins memory meanwhile, which the default mode would take for an error.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            work()
        return graph.replay


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

    Raises
    ------
    RuntimeError
        A batch has other shapes or dtypes than the first.
    """

    def __init__(
        self,
        forward_backward: Callable[[tuple[Tensor, ...]], Tensor],
        optimise: Work,
        parameters: list[Tensor],
        recorder: Recorder,
        between: Callable[[list[Tensor]], None] | None = None,
    ) -> None:
        self._compute = forward_backward
        self._parameters = parameters
        self._recorder = recorder
        self._between = between
        self._batch: tuple[Tensor, ...] = ()
        self._loss = torch.empty(())
        self._gradients: list[Tensor] = []
        self._optimise_in_place = optimise
        self._forward_backward = _Half(self._run_batch)
        self._optimise = _Half(self._run_optimiser)

    def forward_backward(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Add a batch's gradients; `batch` may lie on the host, pinned.

        Returns
        -------
        The loss, float32 [] on the device, overwritten by the next batch.
        """
        if not self._batch:
            device = self._parameters[0].device
            self._batch = tuple(torch.empty_like(part, device=device) for part in batch)
            self._loss = torch.zeros((), device=device)
            self._gradients = _zero_gradients(self._parameters)
        for buffer, part in zip(self._batch, batch, strict=True):
            if buffer.shape != part.shape or buffer.dtype != part.dtype:
                raise RuntimeError(
                    f"a captured step takes batches of one shape: got {part.dtype} "
                    f"{list(part.shape)}, needs {buffer.dtype} {list(buffer.shape)}"
                )
            buffer.copy_(part, non_blocking=True)
        self._forward_backward(self._recorder)
        return self._loss

    def optimise(self) -> None:
        """Step by the gradients added since the last call, and zero them."""
        if self._between is not None:
            self._between(self._gradients)
        self._optimise(self._recorder)

    def _run_batch(self) -> None:
        self._loss.copy_(self._compute(self._batch).detach())

    def _run_optimiser(self) -> None:
        self._optimise_in_place()
        for gradients in self._gradients:
            gradients.zero_()


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


class _Half:
    """Work that is done eagerly a few times, then recorded, then replayed."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._eager = _WARM_UP
        self._replay: Work | None = None

    def __call__(self, recorder: Recorder) -> None:
        if self._eager:
            self._eager -= 1
            recorder.run(self._work)
            return
        if self._replay is None:
            self._replay = recorder.record(self._work)
        self._replay()
