"""Seconds of a function on a device: CUDA events on a GPU, the processor's clock elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

_WARM_UPS = 3  # calls before a capture: compilers, caches and workspaces are made in them


class Clock:
    """Times functions on one device.

    Parameters
    ----------
    device : torch.device
        On CUDA the seconds are those between two events on the current stream, so that they hold
        the kernels' time and not the launches', unless the launches are slower.
    graphs : bool
        Time replays of CUDA graphs (:meth:`prepared`): kernels without their launches.
    """

    def __init__(self, device: torch.device, graphs: bool = False) -> None:
        self.device = device
        self.graphs = graphs

    def prepared(self, function: Callable[[], object]) -> Callable[[], object]:
        """Return what to time for a function: itself, or the replay of a graph of it.

        Raises
        ------
        RuntimeError
            The function cannot be captured in a graph; CUDA says why.
        """
        if not self.graphs:
            return function
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                function()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function()
        return graph.replay

    def seconds(self, function: Callable[[], object], repetitions: int = 1) -> float:
        """Return the mean seconds of ``repetitions`` calls in a row."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            for _ in range(repetitions):
                function()
            return (time.perf_counter() - start) / repetitions
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        for _ in range(repetitions):
            function()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3 / repetitions

    def peak_bytes(self, function: Callable[[], object]) -> int | None:
        """Return the bytes allocated during a call above those before; None where unknown."""
        if self.device.type != "cuda":
            return None
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        function()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before

    def name(self) -> str:
        """Return the card's name, or the device's where it has none."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return self.device.type
