"""How many processes train, and whether that many were started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

__all__ = [
    "LaunchPlan",
    "is_first_process",
    "parse_devices",
    "plan_launch",
]


@dataclass(frozen=True)
class LaunchPlan:
    """What is passed to Lightning Fabric.

    Attributes
    ----------
    devices : str | int | list[int]
        As Fabric takes them.
    processes : int
        Processes that train together, on all machines.
    is_first : bool
        Whether this process is the one that writes.
    """

    devices: str | int | list[int]
    processes: int
    is_first: bool


def parse_devices(devices: str) -> str | int | list[int]:
    """Return what --devices means to Fabric: "auto", a number of devices, or their indices.

    Raises
    ------
    ValueError
        It is none of these.
    """
    if devices == "auto":
        return devices
    parts = devices.split(",")
    if not all(part.isdecimal() for part in parts) or devices == "0":
        raise ValueError(
            f"--devices: got {devices!r}, needs auto, a number of devices, or indices such as 0,1"
        )
    return [int(part) for part in parts] if len(parts) > 1 else int(devices)


def plan_launch(
    devices: str, num_nodes: int, environment: Mapping[str, str] = os.environ
) -> LaunchPlan:
    """Return the plan, after a look at who has started this process.

    Raises
    ------
    ValueError
        torchrun, SLURM or mpirun has started another number of processes than `devices` on each of
        `num_nodes`. They would wait for each other for ever, or, which is worse, train side by side
        into one folder.
    """
    parsed = parse_devices(devices)
    if parsed == "auto":
        per_node = max(1, torch.cuda.device_count())
    else:
        per_node = len(parsed) if isinstance(parsed, list) else int(parsed)
    processes = per_node * num_nodes
    starter, started = _started(environment)
    if started is not None and started != processes:
        counted = f"--devices {devices}" + (f" (here {per_node})" if parsed == "auto" else "")
        raise ValueError(
            f"{starter} has started {started} process{'es' if started > 1 else ''}, but "
            f"{counted} on --num-nodes {num_nodes} makes {processes}: let the two agree, for "
            f"instance by --devices {max(1, started // num_nodes)}"
        )
    return LaunchPlan(parsed, processes, processes == 1 or is_first_process(environment))


def _started(environment: Mapping[str, str]) -> tuple[str, int | None]:
    """Who has started this process and its sisters, and how many they are; None for nobody."""
    # A launcher inside of a SLURM job comes first: SLURM's tasks then are launchers.
    if "WORLD_SIZE" in environment and ("RANK" in environment or "LOCAL_RANK" in environment):
        starter = "torchrun" if "TORCHELASTIC_RUN_ID" in environment else "the launcher"
        return starter, int(environment["WORLD_SIZE"])
    # As Lightning does: a job of that name is a shell to type in, and starts one process.
    interactive = environment.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if "SLURM_NTASKS" in environment and not interactive:
        return "SLURM", int(environment["SLURM_NTASKS"])
    if "OMPI_COMM_WORLD_SIZE" in environment:
        return "mpirun", int(environment["OMPI_COMM_WORLD_SIZE"])
    return "", None


def is_first_process(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is the first of those that were started together."""
    if "RANK" in environment:
        return int(environment["RANK"]) == 0
    if "LOCAL_RANK" not in environment and "SLURM_PROCID" in environment:
        return int(environment["SLURM_PROCID"]) == 0
    ranks = (environment.get("NODE_RANK", "0"), environment.get("LOCAL_RANK", "0"))
    return all(int(rank) == 0 for rank in ranks)
