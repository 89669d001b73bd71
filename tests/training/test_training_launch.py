"""As many processes train as were started, or none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.test_training_run import transnext_train
from transnext_models.training.launch import is_first_process, parse_devices, plan_launch


def torchrun(size: int, rank: int = 0) -> dict[str, str]:
    return {
        "TORCHELASTIC_RUN_ID": "none",
        "WORLD_SIZE": str(size),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
    }


def slurm(tasks: int, rank: int = 0) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": str(tasks),
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
    }


@pytest.mark.parametrize(
    ("devices", "nodes", "environment", "message"),
    [
        ("1", 1, torchrun(4), r"torchrun has started 4 processes, but --devices 1 on --num-nodes 1 "
         r"makes 1: let the two agree, for instance by --devices 4"),
        ("2", 1, torchrun(4), r"started 4 processes.*makes 2"),
        ("2", 1, torchrun(1), r"started 1 process, but --devices 2 on --num-nodes 1 makes 2"),
        ("2", 2, torchrun(2), r"started 2 processes.*--devices 2 on --num-nodes 2 makes 4.*"
         r"--devices 1$"),
        ("0,3", 1, torchrun(3), r"started 3 processes, but --devices 0,3 on --num-nodes 1 makes 2"),
        ("1", 1, slurm(8), r"SLURM has started 8 processes.*--devices 1 on --num-nodes 1 makes 1"),
        ("4", 1, slurm(1), r"SLURM has started 1 process, .*makes 4"),
        ("1", 1, {"OMPI_COMM_WORLD_SIZE": "2"}, r"mpirun has started 2 processes.*makes 1"),
        ("1", 1, {"WORLD_SIZE": "2", "RANK": "1"}, r"the launcher has started 2 processes"),
    ],
)  # fmt: skip
def test_another_number_is_refused(
    devices: str, nodes: int, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan_launch(devices, nodes, environment)


@pytest.mark.parametrize(
    ("devices", "nodes", "environment", "processes", "first"),
    [
        ("1", 1, {}, 1, True),
        ("2", 1, {}, 2, True),
        ("0,1", 2, {}, 4, True),
        ("4", 1, torchrun(4), 4, True),
        ("4", 1, torchrun(4, rank=3), 4, False),
        ("2", 2, torchrun(4, rank=2), 4, False),
        ("8", 2, slurm(16, rank=9), 16, False),
        ("8", 2, slurm(16), 16, True),
        # torchrun within a SLURM job: SLURM counts the launchers.
        ("4", 2, {**slurm(2), **torchrun(8)}, 8, True),
        ("1", 1, {**slurm(4), "SLURM_JOB_NAME": "interactive"}, 1, True),
        # Lightning's own children, and its main process on the second machine.
        ("2", 1, {"WORLD_SIZE": "2", "LOCAL_RANK": "1", "NODE_RANK": "0"}, 2, False),
        ("2", 2, {"NODE_RANK": "1"}, 4, False),
        ("1", 1, {"WORLD_SIZE": "4"}, 1, True),  # of nobody who has numbered this process
    ],
)
def test_plan(
    devices: str, nodes: int, environment: dict[str, str], processes: int, first: bool
) -> None:
    plan = plan_launch(devices, nodes, environment)
    assert (plan.processes, plan.is_first) == (processes, first)
    if processes > 1:
        assert is_first_process(environment) is first


def test_auto_counts_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert plan_launch("auto", 1, {}).processes == 4
    with pytest.raises(ValueError, match=r"--devices auto \(here 4\) on --num-nodes 1 makes 4"):
        plan_launch("auto", 1, torchrun(2))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert plan_launch("auto", 1, {}).processes == 1


def test_devices() -> None:
    assert [parse_devices(text) for text in ("auto", "3", "0,2")] == ["auto", 3, [0, 2]]
    for text in ("", "0", "-1", "two", "1,", "1.5", "cuda:0"):
        with pytest.raises(ValueError, match=r"--devices: got .*, needs auto, a number of devices"):
            parse_devices(text)


def test_the_command_refuses_before_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in torchrun(4, rank=1).items():
        monkeypatch.setenv(name, value)
    run = tmp_path / "run"
    result = transnext_train("--recipe", "digits", "--devices", "1", "--output", str(run))
    assert result.exit_code == 1
    assert "torchrun has started 4 processes" in result.stderr.replace("\n", "")
    assert not run.exists()
