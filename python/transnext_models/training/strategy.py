"""Lightning's strategy for several processes, which find each other as `connection` says."""

from __future__ import annotations

import atexit
import os

import torch
import torch.distributed
from lightning.fabric.strategies import DDPStrategy

from .connection import MeetingPoint, join

__all__ = ["PatientDDP"]


class PatientDDP(DDPStrategy):
    """Lightning's, but for how the processes find each other and how long they wait.

    Parameters
    ----------
    patience : float
        Seconds to wait.
    """

    def __init__(self, patience: float) -> None:
        super().__init__()
        self._patience = patience

    def setup_environment(self) -> None:
        """Join the other processes, before Lightning would."""
        environment = self.cluster_environment
        assert environment is not None
        if not torch.distributed.is_initialized():
            environment.set_global_rank(self.node_rank * self.num_processes + self.local_rank)
            environment.set_world_size(self.num_nodes * self.num_processes)
            point = MeetingPoint(
                environment.main_address,
                environment.main_port,
                environment.global_rank(),
                environment.world_size(),
            ).launched(os.environ)
            is_cuda = self.root_device.type == "cuda"
            if is_cuda:
                torch.cuda.set_device(self.root_device)
            join("nccl" if is_cuda else "gloo", point, self._patience, self._ended)
            atexit.register(_disconnect)
        super().setup_environment()

    def _ended(self) -> str | None:
        """Say which of the processes that this one has started has ended."""
        for number, process in enumerate(getattr(self.launcher, "procs", []), 1):
            code = process.poll()
            if code:
                return f"process {number} of this machine has ended with status {code}"
        return None


def _disconnect() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
