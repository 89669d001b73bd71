"""What a worker times, and the precision it computes in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from benchmarks.shapes.cases import Candidate


@dataclass(frozen=True)
class Step:
    """Something to time.

    Attributes
    ----------
    run : callable
        Does the work once.
    parameter_bytes : int
        Of the model's parameters, which peak memory is counted above.
    note : str
        What the tables are to say of this candidate.
    fraction : float
        How much of a run's time counts.
    """

    run: Callable[[], object]
    parameter_bytes: int = 0
    note: str = ""
    fraction: float = 1.0


def autocast(candidate: Candidate) -> AbstractContextManager[object]:
    """Return the context that a candidate computes in."""
    if candidate.dtype == "bfloat16":
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()
