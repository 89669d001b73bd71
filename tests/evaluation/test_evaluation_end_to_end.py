"""From ImageNet's archives to the figure: digits in ImageNet's layouts, trained and evaluated."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from evaluation.conftest import Command
from training import short_runs
from training.image_layouts import LAYOUTS, Contents, digits
from transnext_models.checkpoints import read_state_dict
from transnext_models.evaluation.models import MODES
from transnext_models.evaluation.results import Results
from transnext_models.training.recipes import RECIPES, get_recipe
from transnext_models.training.run import train

SMALL = {"img_size": 32, "pretrain_size": 32, "num_classes": 10, "batch_size": 8, "epochs": 2}
FROM_NOTHING = {"pretrained": False, "warmup_epochs": 0, "lr": 2e-3, "layer_decay": None}
RECIPE = dataclasses.replace(get_recipe("finetune"), name="two_epochs", **SMALL, **FROM_NOTHING)
CLASSES = [f"n{number:08d}" for number in range(10)]
DOWNLOADED = ("folders", "class archives", "as downloaded", "shards")
SIZES = (32, 64, 96)


@pytest.fixture(scope="module")
def content() -> Iterator[dict[str, Contents]]:
    RECIPES[RECIPE.name] = RECIPE
    yield digits(CLASSES, train=32, val=10)
    del RECIPES[RECIPE.name]


@pytest.fixture(scope="module")
def runs(content: dict[str, Contents], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two epochs on the same digits, from each layout."""
    found = {}
    for layout in DOWNLOADED:
        folder = tmp_path_factory.mktemp(layout.replace(" ", "_"))
        data = Path(LAYOUTS[layout](content, folder / "data"))
        options = short_runs.images(
            folder / "run", data, recipe=RECIPE.name, model="transnext_pico"
        )
        train(options)
        found[layout] = options.output
    return found


@pytest.mark.slow
def test_every_layout_trains_to_equal_weights(runs: dict[str, Path]) -> None:
    first, *others = (read_state_dict(run / "model.safetensors") for run in runs.values())
    for other in others:
        short_runs.assert_equal(first, other)


@pytest.mark.slow
def test_the_weights_are_evaluated_at_several_sizes_in_all_modes(
    runs: dict[str, Path], transnext: Command, tmp_path: Path
) -> None:
    """The command's accuracy at the training size is the one that every training measured."""
    output, run = tmp_path / "sizes.csv", runs["folders"]
    code, printed, remarks = transnext(
        *("evaluate", "--weights", run / "model.safetensors", "--output", output),
        *("--folder", run.parent / "data" / "val", "--workers", 0, "--device", "cpu"),
        *("--size", ",".join(map(str, SIZES)), "--mode", ",".join(MODES), "--figure", "sizes"),
    )
    assert code == 0, remarks
    rows = {(row["mode"], row["img_size"]): row for row in Results(output).rows}
    assert set(rows) == {(mode, size) for mode in MODES for size in SIZES}
    (best,) = {
        max(float(row["val_top1"]) for row in short_runs.metrics(run) if row["val_top1"])
        for run in runs.values()
    }
    for mode in MODES:
        assert rows[mode, SIZES[0]]["top1"] == pytest.approx(100 * best, abs=1e-4)
        assert rows[mode, SIZES[0]]["images"] == 100
    assert rows["normal", 96]["loss"] != rows["linear", 96]["loss"]
    figure = tmp_path / "sizes-sizes.png"
    assert f"figure: {figure}" in printed
    with Image.open(figure) as picture:
        assert picture.size[0] > 800
