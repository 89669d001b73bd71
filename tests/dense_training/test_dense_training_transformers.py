"""DINO and Mask2Former on the trainer by their published recipes, small: steps, resuming, kill."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from dense_training import small_models
from dense_training.short_dense_runs import TASKS, options
from dense_training.small_models import DINO, MASK2FORMER, SMALL_MODELS
from requirements import needs
from training.short_runs import StopAfter, assert_same_end, metrics, resumed, started
from transnext_models.dense.published import KNOWN_DENSE_MODELS
from transnext_models.dense_training.options import DenseOptions
from transnext_models.dense_training.recipes import PUBLISHED
from transnext_models.training.run import RunStopped, train

pytestmark = needs("torchvision", "lightning", "timm", "pycocotools", "scipy")

KINDS = {"dino": "detect", "mask2former": "segment"}
NAMES = {"dino": DINO.name, "mask2former": MASK2FORMER.name}
RATES = {"dino": 1e-3, "mask2former": 3e-4}
STEPS = 8


@pytest.fixture(scope="module", autouse=True)
def _known() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, model in SMALL_MODELS.items():
            patch.setitem(KNOWN_DENSE_MODELS, name, model)
        yield


def by_recipe(folder: Path, sets: dict[str, Path], method: str, **changes: Any) -> DenseOptions:
    """Two parts of STEPS / 2 steps of two batches, by the published recipe at another rate."""
    kind = KINDS[method]
    values: dict[str, Any] = {"model": NAMES[method], "recipe": "published", "lr": RATES[method]}
    values |= {"batch_size": 1, "accumulate": 2}
    values |= {"epochs": None, "iterations": STEPS, "validate_every": STEPS // 2}
    return options(folder, sets[kind], kind, **(values | changes))


class Norms:
    """The norm of all gradients before each step of an optimiser."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def __call__(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        gradients: list[Tensor] = [
            parameter.grad
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        self.found.append(float(torch.nn.utils.get_total_norm(gradients)))


@pytest.mark.slow
@pytest.mark.parametrize("method", list(KINDS))
def test_a_run_learns_clips_and_resumes(tmp_path: Path, sets: dict[str, Path], method: str) -> None:
    """What is clipped is the gradient of both batches of a step; a stopped run ends the same."""
    task = TASKS[KINDS[method]]
    whole = by_recipe(tmp_path / "whole", sets, method)
    norms = Norms()
    handle = register_optimizer_step_pre_hook(norms)
    try:
        train(whole, task=task)
    finally:
        handle.remove()
    clip = PUBLISHED[method].clip_norm
    assert clip is not None
    assert norms.found == pytest.approx([clip] * STEPS, rel=1e-3)  # all were larger
    before, after = (float(row["train_loss"]) for row in metrics(whole.output))
    assert after < before

    run = by_recipe(tmp_path / "run", sets, method)
    with pytest.raises(RunStopped):
        train(run, callbacks=[StopAfter(STEPS + STEPS // 2)], task=task)  # within the second part
    train(resumed(run), task=task)  # type: ignore[arg-type]
    assert_same_end(whole.output, run.output)


@pytest.mark.long
@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_bits(tmp_path: Path, sets: dict[str, Path]) -> None:
    """kill -9 after a step, then one command."""
    changes: dict[str, Any] = {"iterations": 4, "validate_every": 4}
    whole = by_recipe(tmp_path / "whole", sets, "dino", **changes)
    train(whole, task=TASKS["detect"])

    run = tmp_path / "run"
    program = [sys.executable, small_models.__file__, "train", "detect"]
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    arguments = [
        *("--data", sets["detect"], "--model", DINO.name, "--recipe", "published"),
        *("--size", "64", "--batch-size", "1", "--accumulate", "2", "--lr", "1e-3"),
        *("--iterations", "4", "--validate-every", "4", "--limit-val-batches", "2"),
        *("--workers", "0", "--devices", "1", "--no-report", "--checkpoint-every-steps", "1"),
        *("--output", run),
    ]
    with started(*arguments, program=program, env=paths) as process:
        while not (run / "checkpoints" / "previous.ckpt").exists() and process.poll() is None:
            time.sleep(0.005)
        assert process.poll() is None, process.communicate()
        process.kill()
        process.wait()
    with started("--resume", run, program=program, env=paths) as process:
        _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert_same_end(whole.output, run)
