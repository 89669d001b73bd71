"""Runs of seconds: on one thread, since their batches are so small that threads mostly wait."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dense_data.written_sets import write_coco, write_label_maps
from dense_training.short_dense_runs import TASKS, options
from transnext_models.training.run import train


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each task: two or three images to train on, two to validate on."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in TASKS}
    write_coco(folders["detect"])
    write_label_maps(folders["segment"])
    return folders


@pytest.fixture(scope="package")
def whole(tmp_path_factory: pytest.TempPathFactory, sets: dict[str, Path]) -> dict[str, Path]:
    """Runs of both tasks that nothing has interrupted."""
    runs = {}
    for kind, task in TASKS.items():
        runs[kind] = tmp_path_factory.mktemp("whole") / kind
        train(options(runs[kind], sets[kind], kind), task=task)
    return runs
