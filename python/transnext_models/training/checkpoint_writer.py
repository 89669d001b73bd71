"""Checkpoints are written while training goes on, from a copy of the state on the host.

Between two steps the state is copied to host memory, which takes as long as memory does; a thread
then seals the copy, brings it to the disk and renames it (`durable`). It writes one checkpoint at a
time: the next copy waits for the one before, and the run ends only behind the last. The copy takes
as much memory as a checkpoint has bytes, and is used again for the next one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

__all__ = ["CheckpointWriter", "Snapshot"]

Write = Callable[[dict[str, Any], bool], None]


class CheckpointWriter:
    """Writes checkpoints one after another.

    Leaving it waits for the last one. A fault that comes out then is raised; where another error
    ends the run, it is said.

    Parameters
    ----------
    write : Callable[[dict[str, Any], bool], None]
        Writes the content of a checkpoint, and is told whether it is the best.
    in_background : bool
        Whether training goes on meanwhile.
    """

    def __init__(self, write: Write, in_background: bool) -> None:
        self._write = write
        self._thread = ThreadPoolExecutor(1, "checkpoints") if in_background else None
        self._snapshot = Snapshot()
        self._pending: Future[None] | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except Exception as fault:
            if error is None:
                raise
            print(fault, file=sys.stderr, flush=True)
        finally:
            if self._thread is not None:
                self._thread.shutdown()

    @property
    def has_failed(self) -> bool:
        """Whether the checkpoint that was being written could not be; `wait` raises why."""
        pending = self._pending
        return pending is not None and pending.done() and pending.exception() is not None

    def save(self, content: dict[str, Any], is_best: bool) -> None:
        """Write a checkpoint, or begin to; what `content` holds may change from then on.

        Raises
        ------
        RunFileError
            This one cannot be written, or the one before could not be.
        """
        self.wait()
        if self._thread is None:
            self._write(content, is_best)
        else:
            copy = self._snapshot.of(content)
            self._pending = self._thread.submit(self._write, copy, is_best)

    def wait(self) -> None:
        """Wait until what was begun is on the disk.

        Raises
        ------
        RunFileError
            It cannot be written.
        """
        pending = self._pending
        if pending is not None:
            pending.result()  # left where it is if a signal ends the waiting
            self._pending = None


class Snapshot:
    """A copy of nested data on the host, in memory that the next copy takes again."""

    def __init__(self) -> None:
        self._hosts: list[Tensor] = []
        self._used = 0
        self._devices: set[torch.device] = set()

    def of(self, content: Any) -> Any:
        """Return a copy of dictionaries, lists, tuples and tensors, at rest when this returns."""
        self._used = 0
        self._devices.clear()
        copy = self._copied(content)
        del self._hosts[self._used :]
        for device in self._devices:
            torch.cuda.synchronize(device)
        return copy

    def _copied(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._on_host(value.detach())
        if isinstance(value, dict):
            return {key: self._copied(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self._copied(each) for each in value)
        return value

    def _on_host(self, source: Tensor) -> Tensor:
        """Copy a tensor, strides included, into memory of an earlier copy if that fits."""
        is_cuda = source.device.type == "cuda"
        hosts, index = self._hosts, self._used
        fits = index < len(hosts) and _layout(hosts[index]) == _layout(source)
        if not fits:
            del hosts[index:]
            hosts.append(torch.empty_like(source, device="cpu", pin_memory=is_cuda))
        if is_cuda:
            self._devices.add(source.device)
        self._used += 1
        return hosts[index].copy_(source, non_blocking=is_cuda)


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype
