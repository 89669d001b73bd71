"""`pretrain_size` belongs to the weights, wherever they come from, and whoever loads them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from training import short_runs
from training.short_runs import StopAfter, resumed
from transnext_models import TransNeXt, create_model
from transnext_models.checkpoints import read_weights
from transnext_models.checkpoints.run_metadata import run_metadata
from transnext_models.training.classification import build_model
from transnext_models.training.options import RunOptions
from transnext_models.training.run import RunStopped, train
from transnext_models.training.settings import Settings


def _weights(path: Path, model: TransNeXt, **metadata: str) -> str:
    save_file(model.state_dict(), path, metadata)
    return str(path)


def _built(options: RunOptions) -> TransNeXt:
    return build_model(options, Settings.of(options, 1), options.num_classes or 1000, None)


def _options(tmp_path: Path, **changes: object) -> RunOptions:
    return RunOptions(recipe="imagenet_224", output=tmp_path / "run", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "size"), [("transnext_micro_AAAA", 256), ("transnext_micro", 224)]
)
@pytest.mark.parametrize("recipe", ["imagenet_224", "imagenet_256", "imagenet_384_ft"])
def test_published_weights_bring_their_size(
    tmp_path: Path, model: str, size: int, recipe: str
) -> None:
    """As published they are a `.pth` that says nothing: the registry knows."""
    path = tmp_path / "weights.pth"
    torch.save({"model": create_model(model).state_dict()}, path)
    options = _options(tmp_path, model=model, weights=str(path), img_size=64)
    options = dataclasses.replace(options, recipe=recipe)
    assert _built(options).pretrain_size == size
    assert _built(dataclasses.replace(options, pretrain_size=size)).pretrain_size == size
    message = rf"--pretrain-size: got 96, needs {size}, at which --weights .*weights\.pth"
    with pytest.raises(ValueError, match=message):
        _built(dataclasses.replace(options, pretrain_size=96))


def test_a_file_s_metadata_say_its_size(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    weights = _weights(path, create_model("transnext_pico", num_classes=7), pretrain_size="96")
    options = _options(tmp_path, model="transnext_pico", weights=weights, num_classes=3)
    model = _built(options)
    assert (model.pretrain_size, model.img_size, model.num_classes) == (96, 224, 3)
    with pytest.raises(
        ValueError, match=r"--pretrain-size: got 224, needs 96, .*mine\.safetensors"
    ):
        _built(dataclasses.replace(options, pretrain_size=224))


def test_without_weights_the_recipe_or_the_option_says_it(tmp_path: Path) -> None:
    options = _options(tmp_path, model="transnext_pico")
    assert _built(options).pretrain_size == 224
    assert _built(dataclasses.replace(options, pretrain_size=64)).pretrain_size == 64


def test_a_run_exports_and_keeps_the_size_of_its_weights(
    tmp_path: Path, options: RunOptions
) -> None:
    path = tmp_path / "start.safetensors"
    weights = _weights(path, create_model("transnext_pico", num_classes=3), pretrain_size="96")
    options = dataclasses.replace(options, weights=weights)
    with pytest.raises(RunStopped):
        train(options, [StopAfter(5)])
    path.unlink()
    kept = json.loads((options.output / "config.json").read_text())
    assert kept["resolved"]["pretrain_size"] == 96
    with pytest.raises(ValueError, match="pretrain_size was 96 and is 32"):
        train(resumed(options, pretrain_size=32))
    train(resumed(options))
    exported = options.output / "model.safetensors"
    assert read_weights(exported).metadata["pretrain_size"] == "96"
    # What is trained from an export, or from a checkpoint, has its size without being told.
    for source in (exported, options.output / "checkpoints" / "last.ckpt"):
        tuned = short_runs.images(tmp_path / "tuned", tmp_path, weights=str(source))
        assert _built(tuned).pretrain_size == 96
        assert create_model("transnext_pico", weights=source).pretrain_size == 96


def test_timm_takes_the_size_of_the_weights(tmp_path: Path) -> None:
    ours = create_model("transnext_pico", pretrain_size=96).eval()
    overlay = {"file": _weights(tmp_path / "w.safetensors", ours, pretrain_size="96")}
    arguments = {"pretrained": True, "pretrained_cfg_overlay": overlay}
    theirs = timm.create_model("transnext_pico", **arguments).eval()
    assert theirs.pretrain_size == 96
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(theirs(x), ours(x))
    maps = timm.create_model("transnext_pico", features_only=True, **arguments)
    assert maps.model.pretrain_size == 96
    same = timm.create_model("transnext_pico", pretrain_size=96, **arguments)
    assert same.pretrain_size == 96
    with pytest.raises(ValueError, match="pretrain_size: got 64, needs 96, which the weights'"):
        timm.create_model("transnext_pico", pretrain_size=64, **arguments)


@pytest.mark.parametrize(
    "root",
    [
        None,
        [],
        {"configuration": 3},
        {"configuration": {"resolved": [], "class_names": None}},
        {"configuration": {"resolved": {"pretrain_size": True}, "class_names": ["a", 1]}},
        {"configuration": {"resolved": {"pretrain_size": 1 << 80}}},
        {"configuration": {"resolved": {"pretrain_size": "96"}, "class_names": {"a": 1}}},
    ],
)
def test_what_is_no_configuration_says_nothing(root: object) -> None:
    assert run_metadata(root) == {}


def test_a_configuration_says_sizes_and_names() -> None:
    root = {"configuration": {"resolved": {"pretrain_size": 96}, "class_names": ["a", "ü"]}}
    assert run_metadata(root) == {"pretrain_size": "96", "class_names": json.dumps(["a", "ü"])}
