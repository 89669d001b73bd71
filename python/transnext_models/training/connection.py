"""The processes of a run find each other, or say which of them has not come.

PyTorch waits half an hour for a process that was killed before it could connect, and then says
little. Here every process signs in at the first one's store, and waits for the others as long as it
was told to. What the processes exchange later has PyTorch's own patience: one of them may write a
report for minutes while the others wait.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed

__all__ = ["PATIENCE", "MeetingPoint", "ProcessesMissing", "join", "join_processes", "meet"]

PATIENCE = 300.0
"""Seconds that processes wait for each other when they start."""

_TURN = 1.0  # seconds for which signals have to wait
_PAUSE = 0.1  # between two looks at who has come; Lightning kills a run some seconds after a loss
_SHOWN = 8


class ProcessesMissing(RuntimeError):
    """Not all processes have come; the message says which, where, and how long it was waited."""


@dataclass(frozen=True)
class MeetingPoint:
    """Where processes find each other.

    Attributes
    ----------
    address, port
        Of the store.
    rank, ranks : int
        Number of this process, and of how many.
    attempt : int
        How often the launcher has started them again.
    is_served : bool
        Whether the launcher serves the store, rather than the first process.
    """

    address: str
    port: int
    rank: int
    ranks: int
    attempt: int = 0
    is_served: bool = False

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> MeetingPoint:
        """Return the one that torchrun, or another launcher, has named."""
        return cls(
            environment["MASTER_ADDR"],
            int(environment["MASTER_PORT"]),
            int(environment["RANK"]),
            int(environment["WORLD_SIZE"]),
        ).launched(environment)

    def launched(self, environment: Mapping[str, str]) -> MeetingPoint:
        """Return the same for processes that torchrun has started, if it has."""
        return MeetingPoint(
            self.address,
            self.port,
            self.rank,
            self.ranks,
            int(environment.get("TORCHELASTIC_RESTART_COUNT", "0")),
            environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        )

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


def join_processes(
    backend: str,
    environment: Mapping[str, str] = os.environ,
    patience: float = PATIENCE,
) -> None:
    """Join the processes that torchrun has started, or started again.

    Raises
    ------
    ProcessesMissing
        Not all of them have come within `patience` seconds.
    """
    join(backend, MeetingPoint.of(environment), patience)


def join(
    backend: str,
    point: MeetingPoint,
    patience: float,
    ended: Callable[[], str | None] = lambda: None,
) -> None:
    """Join the processes at `point`, and form the process group; see `meet`."""
    until = time.monotonic() + patience
    store = meet(_store(point, until, patience), point, until, patience, ended)
    torch.distributed.init_process_group(
        backend, store=store, rank=point.rank, world_size=point.ranks
    )


def _store(point: MeetingPoint, until: float, patience: float) -> Any:
    """Open the store, or wait for whoever does."""
    is_master = point.rank == 0 and not point.is_served
    while True:
        try:
            return torch.distributed.TCPStore(
                point.address,
                point.port,
                point.ranks,
                is_master,
                timeout=timedelta(seconds=max(_TURN, min(10 * _TURN, until - time.monotonic()))),
                wait_for_workers=False,
                multi_tenant=True,
            )
        except RuntimeError as error:  # torch's DistNetworkError among them
            if is_master:
                text = str(error).partition("\n")[0]
                raise ProcessesMissing(
                    f"{point}: the first process cannot listen ({text})"
                ) from error
            if time.monotonic() > until:
                host = "launcher" if point.is_served else "first process"
                raise _missing(point, patience, 1, f"an answer of the {host}") from error


def meet(
    store: Any,
    point: MeetingPoint,
    until: float,
    patience: float,
    ended: Callable[[], str | None] = lambda: None,
) -> torch.distributed.PrefixStore:
    """Sign in, wait for all, and return the part of the store that is this attempt's.

    torchrun serves one store to its processes and to their restarts (PyTorch 2.14), where a process
    that is quicker than another finds the address that the other had before it was killed. A
    restart has keys of its own here.

    Parameters
    ----------
    store : torch.distributed.Store
        Of the launcher or of the first process.
    until : float
        When to give up, of `time.monotonic`.
    ended : Callable[[], str | None]
        Says so if another process is known to have ended.

    Raises
    ------
    ProcessesMissing
        Not all processes have come, or the first one is gone.
    """
    own = torch.distributed.PrefixStore(f"attempt {point.attempt}", store)
    keys = [f"process {rank}" for rank in range(point.ranks)]
    try:
        own.set(keys[point.rank], "here")
        while True:
            missing = [key for key in keys if not own.check([key])]
            if not missing:
                return own
            if (fault := ended()) is not None:
                raise ProcessesMissing(f"{point}: {fault}, before all had found each other")
            if time.monotonic() > until:
                here = point.ranks - len(missing)
                shown = ", ".join(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
                raise _missing(point, patience, here, shown)
            time.sleep(_PAUSE)  # the store's own waiting writes a warning each time it ends
    except ProcessesMissing:
        raise
    except RuntimeError as error:
        text = f"{point}: the first process has ended, before all had found each other"
        raise ProcessesMissing(text) from error


def _missing(point: MeetingPoint, patience: float, here: int, needs: str) -> ProcessesMissing:
    return ProcessesMissing(
        f"--connect-timeout: got {here} of {point.ranks} processes at {point} within "
        f"{patience:g} s, needs {needs}: see what the others have said, or wait longer"
    )
