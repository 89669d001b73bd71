"""A run of a detector or segmentor resumes exactly, and exports weights that say what they are."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dense_data.written_sets import DETECTION, NAMES, write_coco
from dense_training.short_dense_runs import MODELS, TASKS, options
from requirements import needs
from training.short_runs import StopAfter, assert_same_end, metrics, resumed
from transnext_models import create_model
from transnext_models.dense.loading import read_dense
from transnext_models.training.checkpoint_files import read_checkpoint
from transnext_models.training.dry_run import dry_run
from transnext_models.training.run import RunStopped, train

pytestmark = needs("torchvision", "lightning", "timm", "pycocotools")

KINDS = list(TASKS)


@pytest.mark.parametrize(("kind", "batches", "workers"), [("detect", 1, 2), ("segment", 3, 2)])
def test_a_stopped_run_ends_in_the_same_bits(
    tmp_path: Path,
    sets: dict[str, Path],
    whole: dict[str, Path],
    kind: str,
    batches: int,
    workers: int,
) -> None:
    """In the middle of an epoch, going on with another number of loading processes."""
    task, run = TASKS[kind], options(tmp_path / "run", sets[kind], kind)
    with pytest.raises(RunStopped, match="SIGTERM after step"):
        train(run, callbacks=[StopAfter(batches)], task=task)
    place = read_checkpoint(run.output / "checkpoints" / "last.ckpt")
    assert place["global_step"] == batches
    train(resumed(run, workers=workers), task=task)  # type: ignore[arg-type]
    assert_same_end(whole[kind], run.output)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_say_what_they_are(whole: dict[str, Path], kind: str) -> None:
    row = metrics(whole[kind])[-1]
    scores = {"detect": ("val_box_ap", "val_mask_ap"), "segment": ("val_miou",)}[kind]
    assert all(0 <= float(row[name]) <= 1 for name in scores)
    for name in ("model.safetensors", "model_float16.safetensors"):
        read = read_dense(whole[kind] / name)
        assert read.metadata["model"] == MODELS[kind]
        assert read.metadata["scale"] == "85,64"
        model = create_model(MODELS[kind], weights=whole[kind] / name)
        configuration = json.loads((whole[kind] / "config.json").read_text())
        assert model.class_names == configuration["class_names"]
        assert model.backbone.img_size == 85  # 192 in the model's proportion of sides
    assert row["epoch"] == "1"


def test_the_commands_use_the_weights_without_other_options(whole: dict[str, Path]) -> None:
    from transnext_models.detecting import Detector
    from transnext_models.segmenting import Segmentor

    picture = Image.new("RGB", (60, 40), (90, 120, 30))
    detector = Detector.load(weights=whole["detect"] / "model.safetensors", device="cpu")
    assert detector.scale == (85, 64)
    assert detector.class_names == list(NAMES)
    assert len(list(detector.detect(picture))) == 1
    segmentor = Segmentor.load(weights=whole["segment"] / "model.safetensors", device="cpu")
    assert segmentor.inference.scale == (85, 64)
    assert next(iter(segmentor.segment(picture))).labels.shape == (40, 60)


def test_boxes_alone_train_a_detector_without_masks(tmp_path: Path, capsys: Any) -> None:
    DETECTION["yolo"](tmp_path / "set")
    run = options(tmp_path / "run", tmp_path / "set", "detect", epochs=1)
    train(run, task=TASKS["detect"])
    assert "no masks: boxes and classes are trained" in capsys.readouterr().err
    assert "val_mask_ap" not in {name for name, value in metrics(run.output)[0].items() if value}
    model = create_model(MODELS["detect"], weights=run.output / "model.safetensors").eval()
    with torch.no_grad():
        (found,) = model(torch.zeros(1, 3, 64, 96))
    assert found.masks is None


def test_another_number_of_classes_from_a_run_s_weights(
    tmp_path: Path, sets: dict[str, Path], whole: dict[str, Path]
) -> None:
    """The heads are new where they depend on it; all else begins as it was."""
    data = tmp_path / "set"
    write_coco(data)
    for file in (data / "annotations").glob("*.json"):
        text = file.read_text().replace(
            '"name": "pear"}', '"name": "pear"}, {"id": 40, "name": "fig"}'
        )
        file.write_text(text)
    weights = whole["detect"] / "last.safetensors"
    run = options(tmp_path / "run", data, "detect", weights=str(weights), epochs=1, size=None)
    settings = TASKS["detect"].settings(run, 1)
    assert settings.scale == (85, 64)  # the run's, not the model's
    model = TASKS["detect"].model(run, settings, TASKS["detect"].data(run, settings), None)
    before, after = read_dense(weights).state_dict, model.state_dict()
    assert (model.num_classes, model.backbone.img_size) == (3, 85)
    fresh = settings.model.method.class_parameters
    for name, value in before.items():
        if not name.startswith(fresh):
            assert torch.equal(value, after[name]), name


def test_the_sides_of_images_are_those_asked_for_or_of_the_weights(
    tmp_path: Path, sets: dict[str, Path], whole: dict[str, Path]
) -> None:
    """A run that goes on keeps its own, also where the weights that it began with are gone."""

    def scale(configuration: dict[str, Any] | None = None, **changes: Any) -> tuple[int, int]:
        run = options(tmp_path / "run", sets["segment"], "segment", **{"size": None, **changes})
        return TASKS["segment"].settings(run, 1, configuration).scale

    weights = str(whole["segment"] / "model.safetensors")
    assert scale() == scale(weights=MODELS["segment"]) == (192, 144)
    assert scale(weights=weights) == (85, 64)
    assert scale(weights=weights, size=96) == (128, 96)
    configuration = json.loads((whole["segment"] / "config.json").read_text())
    assert scale(configuration, weights="gone.safetensors") == (85, 64)


def test_a_dry_run_writes_nothing(tmp_path: Path, sets: dict[str, Path]) -> None:
    run = options(tmp_path / "run", sets["detect"], "detect", dry_run=True)
    found = dry_run(run, TASKS["detect"])
    assert not run.output.exists()
    assert (found.train_images, found.val_images, found.classes) == (2, 2, 2)
    assert any("images/s" in line for line in found.lines())


def test_iterations_are_parts_of_an_endless_stream(tmp_path: Path, sets: dict[str, Path]) -> None:
    run = options(tmp_path / "run", sets["segment"], "segment", epochs=None, iterations=7)
    task = TASKS["segment"]
    settings = task.settings(dataclasses.replace(run, validate_every=3), 1)
    assert (settings.epochs, settings.steps_per_epoch) == (3, 3)  # 9 steps: parts are as long
    data = task.data(run, settings)
    images = len(data.train_images)
    stream = torch.cat([data.order(epoch) for epoch in range(settings.epochs)])
    assert len(stream) == 18
    for first in range(0, 18 - images + 1, images):
        assert stream[first : first + images].sort().values.tolist() == list(range(images))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": 3}, "--iterations: got 3 together with --epochs 2"),
        ({"data": None}, "--data: got nothing, needs a folder of annotated images"),
        ({"size": 8}, "--size: got 8, needs at least 32"),
        ({"recipe": "best"}, "--recipe: got 'best', needs one of"),
        ({"model": "upernet_tiny", "batch_size": 2}, "got upernet_transnext_tiny, which can"),
        ({"backbone_weights": "a", "weights": "b"}, "--backbone-weights: got it together with"),
        ({"freeze": "nothing.*"}, "--freeze: got 'nothing.*', needs a number of stages"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant(
    tmp_path: Path, sets: dict[str, Path], changes: dict[str, Any], message: str
) -> None:
    run = dataclasses.replace(options(tmp_path / "run", sets["detect"], "detect"), **changes)
    with pytest.raises(ValueError, match=message.replace("*", r"\*")):
        train(run, task=TASKS["detect"])
    assert not run.output.exists()


def test_an_image_that_cannot_be_read_is_named_and_left_out(tmp_path: Path, capsys: Any) -> None:
    data = tmp_path / "set"
    write_coco(data)
    damaged = next(data.rglob("a.png"))
    damaged.write_bytes(damaged.read_bytes()[:200])
    run = options(tmp_path / "run", data, "detect", epochs=1)
    train(run, task=TASKS["detect"])
    error = capsys.readouterr().err
    assert error.count(f"left out, since it cannot be read: {damaged}") == 1
