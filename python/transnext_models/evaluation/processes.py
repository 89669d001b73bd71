"""The processes that evaluate together, as torchrun, SLURM's srun with its variables, … start them.

They exchange only images' names and answers, by gloo, whatever the models run on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from ..training.connection import join_processes

__all__ = ["OtherProcessFailed", "Processes", "started_processes"]

_MOST_WORKERS = 16

T = TypeVar("T")


class OtherProcessFailed(RuntimeError):
    """The first process has failed, and has said why."""


@dataclass(frozen=True)
class Processes:
    """One process among those that evaluate together.

    Attributes
    ----------
    rank, count, local_rank : int
        Its number, how many there are, its number on this machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this one writes and speaks."""
        return self.rank == 0

    def from_first(self, value: T) -> T:
        """Return what the first process passes here."""
        if self.count == 1:
            return value
        box = [value if self.is_first else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[return-value]

    def in_first(self, action: Callable[[], T]) -> T | None:
        """Run something in the first process, None elsewhere; where it fails, all end.

        Raises
        ------
        OtherProcessFailed
            In the other processes; in the first its own error.
        """
        value, error = None, None
        if self.is_first:
            try:
                value = action()
            except Exception as caught:
                error = caught
        if self.from_first(error is not None):
            raise error or OtherProcessFailed
        return value

    def gathered(self, value: T) -> list[T]:
        """Return every process's value, in the first process; elsewhere an empty list."""
        if self.count == 1:
            return [value]
        values: list[T] | None = [value] * self.count if self.is_first else None
        dist.gather_object(value, values, dst=0)
        return values or []

    def device(self, asked: torch.device) -> torch.device:
        """Return this process's device: of several on a machine each takes a GPU of its own."""
        if asked.type != "cuda" or asked.index is not None or self.count == 1:
            return asked
        here = torch.cuda.device_count()
        if self.local_rank >= here:
            raise ValueError(
                f"device: got process {self.local_rank} of this machine, which has {here} GPUs: "
                "start as many processes as there are"
            )
        return torch.device("cuda", self.local_rank)

    def loading_workers(self) -> int:
        """Return a loading process for each core, shared by the processes on this machine."""
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.count > 1 else 1
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        return max(1, min(_MOST_WORKERS, cores // local))


@contextmanager
def started_processes(environment: Mapping[str, str] = os.environ) -> Iterator[Processes]:
    """Join the processes that torchrun has started; without it there is this one alone."""
    count = int(environment.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in environment:
        yield Processes()
        return
    join_processes("gloo", environment)
    try:
        yield Processes(dist.get_rank(), count, int(environment.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()
