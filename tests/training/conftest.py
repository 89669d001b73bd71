"""Training tests run on one thread: their batches are so small that threads mostly wait."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shared_folder import shared_folder
from tools.made_once import made_once
from training import short_runs
from training.image_layouts import CLASSES, noise
from transnext_models.training.recipes import RECIPES
from transnext_models.training.run import RunOptions, train


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package", autouse=True)
def _small_recipe() -> Iterator[None]:
    """Make `short_runs.SMALL` known by its name."""
    RECIPES[short_runs.SMALL.name] = short_runs.SMALL
    yield
    del RECIPES[short_runs.SMALL.name]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where indices of archives are kept: never the user's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "transnext"


@pytest.fixture
def content() -> dict[str, Any]:
    """Two images of each class of `image_layouts.CLASSES` in both splits, to be laid out."""
    return dict(noise(CLASSES, train=2, val=2))


@pytest.fixture(scope="package")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in ImageNet's layout: 18 images to train on, 6 to validate on."""
    folder = tmp_path_factory.mktemp("images")
    short_runs.write_images(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A run on images that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train(short_runs.images(folder, images))
    return folder


@pytest.fixture(scope="session")
def odd_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `short_runs.write_odd_images` writes."""
    return made_once(shared_folder(tmp_path_factory) / "odd", short_runs.write_odd_images)


@pytest.fixture(scope="session")
def whole_of_two(tmp_path_factory: pytest.TempPathFactory, odd_images: Path) -> Path:
    """A run of two processes on the odd images that nothing has interrupted."""

    def train_on_two(run: Path) -> None:
        short_runs.finish(*short_runs.on_odd_images(odd_images, run, 2, 2))

    return made_once(shared_folder(tmp_path_factory) / "whole_of_two", train_on_two)


@pytest.fixture
def options(tmp_path: Path, images: Path) -> RunOptions:
    return short_runs.images(tmp_path / "run", images)
