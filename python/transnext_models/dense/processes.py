"""Numbers that all processes of a training agree on."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

__all__ = ["mean_over_processes"]


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes; without gradient, and as it is for one."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
