"""What records work on a device and replays it: CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

__all__ = ["CudaGraphs", "Recorder", "Work", "has_graphs"]

Work = Callable[[], None]


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
    """Records CUDA graphs, which share one memory pool.

    What one graph leaves in the pool another may overwrite, but for tensors that are still
    referred to: replays follow each other, none runs beside another.
    """

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
