"""Training tests run on one thread: their batches are so small that threads mostly wait."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from training import short_runs
from transnext_models.training.recipes import RECIPES


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Compute on one thread."""


@pytest.fixture(scope="package", autouse=True)
def _small_recipe() -> Iterator[None]:
    """Make `short_runs.SMALL` known by its name."""
    RECIPES[short_runs.SMALL.name] = short_runs.SMALL
    yield
    del RECIPES[short_runs.SMALL.name]


@pytest.fixture(scope="package")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in ImageNet's layout: 18 images to train on, 6 to validate on."""
    folder = tmp_path_factory.mktemp("images")
    short_runs.write_images(folder)
    return folder
