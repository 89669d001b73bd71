"""One process per candidate, which runs steps when the parent says so and sleeps otherwise.

A process of its own gives each candidate its own allocator settings and its own peak memory. Only
one process runs at a time; the others wait in a read, so what else the machine does slows
all candidates alike and none disturbs another.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from benchmarks.runner import memory
from benchmarks.shapes.cases import Candidate, Case

# So large that glibc never gives a buffer back to the kernel, which would have to zero it again.
_TUNED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 34), "MALLOC_TRIM_THRESHOLD_": str(1 << 35)}
_PRELOAD = ["torch", "transnext_models", "benchmarks.published.model"]
_SETTLE = 0.01  # seconds; OpenMP's threads spin for a moment after a step before they sleep


@dataclass(frozen=True)
class Built:
    """What building a candidate took.

    Attributes
    ----------
    seconds : float
    peak : int | None
        Most bytes resident while building, above the process before it and the parameters.
    note : str
        What the candidate has to say about itself.
    fraction : float
        How much of a run's time counts.
    """

    seconds: float
    peak: int | None
    note: str
    fraction: float


class WorkerError(RuntimeError):
    """The candidate failed; the message is its traceback."""


def _serve(connection: Connection, case: Case, candidate: Candidate, threads: int) -> None:
    """Build the candidate, then run the steps that each message asks for; runs in the child.

    The warm-up steps of a message are not timed.
    """
    try:
        import torch

        from benchmarks.runner import steps

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        steps.load_libraries()
        before, start = memory.resident(), time.perf_counter()
        memory.reset_peak()
        step = steps.build(case, candidate)
        seconds, peak = time.perf_counter() - start, memory.peak()

        def above(peak: int | None) -> int | None:
            if peak is None or before is None:
                return None
            return max(0, peak - before - step.parameter_bytes)

        connection.send(Built(seconds, above(peak), step.note, step.fraction))
        memory.resident()  # gives back what building left free
        memory.reset_peak()
        while (message := connection.recv()) is not None:
            warm_up, count = message
            if count == 0:
                connection.send(above(memory.peak()))
                continue
            for _ in range(warm_up):
                step.run()
            start = time.perf_counter()
            for _ in range(count):
                step.run()
            connection.send((time.perf_counter() - start) / count)
    except EOFError:  # the parent is gone
        pass
    except BaseException:  # the parent is to hear of it, whatever it is
        connection.send(WorkerError(traceback.format_exc()))


class Worker:
    """A candidate's process."""

    def __init__(self, case: Case, candidate: Candidate, threads: int) -> None:
        # A fork of a process that has imported everything starts at once; an environment of its
        # own needs a new process.
        method = "spawn" if candidate.tuned_allocator or candidate.compiled else "forkserver"
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(_PRELOAD)
        self.candidate = candidate
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, case, candidate, threads), daemon=False
        )
        with _environment(_TUNED if candidate.tuned_allocator else {}):
            self._process.start()
        theirs.close()
        self.built = self._receive()

    def _receive(self):
        try:
            answer = self._connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise WorkerError(f"{self.candidate.name}: its process ended with {code}") from None
        if isinstance(answer, WorkerError):
            raise answer
        return answer

    def run(self, count: int = 1, warm_up: int = 0) -> float:
        """Run ``warm_up`` steps and then ``count``; return the seconds of one of the latter."""
        self._connection.send((warm_up, count))
        seconds = self._receive()
        time.sleep(_SETTLE)
        return seconds

    def peak(self) -> int | None:
        """Most bytes resident over all steps, above the process before building and parameters."""
        self._connection.send((0, 0))
        return self._receive()

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError, OSError):  # it may have failed before
            self._connection.send(None)
        self._connection.close()
        self._process.join()


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
