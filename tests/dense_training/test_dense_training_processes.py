"""Two processes on a CPU train one detector, and validate every image once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from dense_training import shared_gradients
from dense_training.short_dense_runs import MODELS, TASKS, options
from requirements import needs
from training.short_runs import metrics, started
from transnext_models.training.run import train

pytestmark = needs("torchvision", "lightning", "timm", "pycocotools")


@pytest.mark.parametrize("kind", list(TASKS))
def test_processes_share_the_batches_of_one(sets: dict[str, Path], kind: str) -> None:
    """In order, so that the images of a step are the same whatever their number."""
    task, epochs = TASKS[kind], 3
    one = options(Path("run"), sets[kind], kind, batch_size=4)
    data = task.data(one, task.settings(one, 1))
    both = [task.data(one, task.settings(one, 1)) for _ in range(2)]
    for rank, each in enumerate(both):
        each.batch_size = 2
        each.shard(rank, 2)
    for epoch in range(epochs):
        whole = data.order(epoch).view(-1, 4).sort(dim=1).values
        halves = [each.order(epoch).view(-1, 4) for each in both]
        assert torch.equal(halves[0], halves[1])
        assert torch.equal(halves[0].sort(dim=1).values.sort(dim=0).values, whole.sort(0).values)


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    """On the same two images, with unequal numbers of objects."""
    file, store = tmp_path / "gradients.pt", tmp_path / "store"
    program = [sys.executable, shared_gradients.__file__]
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (
        started("0", store, file, program=program, env=paths) as first,
        started("1", store, file, program=program, env=paths) as second,
    ):
        errors = [process.communicate(timeout=300)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), errors
    for method, found in torch.load(file).items():
        expected = shared_gradients.gradient(method)
        assert found.keys() == expected.keys()
        largest = max(float(value.abs().max()) for value in expected.values())
        assert largest > 0
        for name, value in expected.items():
            # Rounding differs with the batch, by which PyTorch chooses its products.
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=5e-4 * largest, msg=name)


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path: Path, sets: dict[str, Path]) -> None:
    """At a rate at which no weight moves: the same scores, of every image once."""
    one = options(
        tmp_path / "one", sets["detect"], "detect", batch_size=2, epochs=1, lr=1e-30,
        limit_val_batches=None,
    )  # fmt: skip
    train(one, task=TASKS["detect"])
    both = tmp_path / "both"
    arguments = (
        *("detect", "--data", str(sets["detect"]), "--model", MODELS["detect"]),
        *("--size", "64", "--epochs", "1", "--lr", "1e-30", "--workers", "0", "--no-report"),
        *("--batch-size", "1", "--devices", "2", "--output", str(both)),
    )
    with started(*arguments) as process:
        _, error = process.communicate(timeout=500)
    assert process.returncode == 0, error
    expected, found = metrics(one.output)[-1], metrics(both)[-1]
    for name in ("step", "val_box_ap", "val_box_ap50", "val_mask_ap"):
        assert found[name] == expected[name], name
