"""The thirteen published detectors and segmentors: names, shapes, sizes, weights from files."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import transnext_models
from dense_golden import published_shapes
from detection_models import DINO_HEADS, MASK_RCNN_HEADS
from segmentation_models import MASK2FORMER_HEADS, UPERNET_HEADS
from small_model import ARCHITECTURE
from transnext_models import TransNeXt, create_model, list_models
from transnext_models.checkpoints import CheckpointError
from transnext_models.dense.loading import load_dense, read_dense
from transnext_models.dense.published import (
    DENSE_MODELS,
    KNOWN_DENSE_MODELS,
    METHODS,
    find_dense_model,
)
from transnext_models.variants import VARIANTS, architecture_arguments

# Millions, counted; those of the paper's tables to their digits.
PARAMETERS = {
    "maskrcnn_transnext_tiny": 47.864,
    "maskrcnn_transnext_small": 69.346,
    "maskrcnn_transnext_base": 109.226,
    "dino_4scale_transnext_tiny": 47.825,
    "dino_5scale_transnext_tiny": 48.141,
    "dino_5scale_transnext_small": 69.623,
    "dino_5scale_transnext_base": 109.946,
    "upernet_transnext_tiny": 58.518,
    "upernet_transnext_small": 80.001,
    "upernet_transnext_base": 121.374,
    "mask2former_transnext_tiny": 47.509,
    "mask2former_transnext_small": 68.991,
    "mask2former_transnext_base": 108.871,
}
FILES = {
    "maskrcnn_transnext_tiny": (
        "DaiShiResearch/maskrcnn-transnext-tiny-coco",
        "mask_rcnn_transnext_tiny_fpn_1x_coco_in1k.pth",
    ),
    "dino_4scale_transnext_tiny": (
        "DaiShiResearch/dino-4scale-transnext-tiny-coco",
        "dino_4scale_transnext_tiny_12e_in1k.pth",
    ),
    "dino_5scale_transnext_base": (
        "DaiShiResearch/dino-5scale-transnext-base-coco",
        "dino_5scale_transnext_base_12e_in1k.pth",
    ),
    "upernet_transnext_small": (
        "DaiShiResearch/upernet-transnext-small-ade",
        "upernet_transnext_small_512x512_160k_ade20k_in1k.pth",
    ),
    "mask2former_transnext_base": (
        "DaiShiResearch/mask2former-transnext-base-ade",
        "mask2former_transnext_base_512x512_160k_ade20k_in1k.pth",
    ),
}
SMALL_HEADS = {
    "maskrcnn_transnext_tiny": MASK_RCNN_HEADS,
    "dino_4scale_transnext_tiny": DINO_HEADS,
    "upernet_transnext_tiny": UPERNET_HEADS,
    "mask2former_transnext_tiny": MASK2FORMER_HEADS,
}


def without_memory(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **options)


def test_all_are_known() -> None:
    assert list(DENSE_MODELS) == list(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_state_dict_is_the_published_one(name: str) -> None:
    model = without_memory(name)
    published = name.replace("_transnext", "").replace("_4scale", "4").replace("_5scale", "5")
    shapes = {key: list(x.shape) for key, x in model.state_dict().items()}
    assert shapes == published_shapes()[published]
    millions = sum(x.numel() for x in model.parameters()) / 1e6
    assert round(millions, 3) == PARAMETERS[name]


@pytest.mark.parametrize("name", FILES)
def test_files_on_the_hub(name: str) -> None:
    assert (DENSE_MODELS[name].repo, DENSE_MODELS[name].file) == FILES[name]


def test_names() -> None:
    detectors = list_models("*_coco")
    assert len(detectors) == 7
    assert "dino_4scale_transnext_tiny.in1k_coco" in detectors
    assert len(list_models("*_ade20k")) == 6
    assert list_models("dino_*") == [name for name in DENSE_MODELS if name.startswith("dino")]
    tagged = [f"{name}.in1k_coco" for name in list_models("dino_*")]
    assert list_models("dino_*", pretrained=True) == tagged
    assert find_dense_model("dino_5scale_base").name == "dino_5scale_transnext_base"
    for name in (*detectors, *list_models("*_ade20k")):
        assert find_dense_model(name).full_name == name
    assert not set(DENSE_MODELS) & set(list_models())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("maskrcnn_transnext_tinny", "did you mean maskrcnn_transnext_tiny"),
        ("dino_transnext_tiny", "did you mean dino_"),
        ("maskrcnn_transnext_tiny.in22k", "it has: in1k_coco"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(name)


def test_unknown_options() -> None:
    with pytest.raises(TypeError, match="unknown option 'classes'"):
        create_model("maskrcnn_transnext_tiny", classes=3)
    with pytest.raises(ValueError, match="num_classes: got 0"):
        create_model("maskrcnn_transnext_tiny", num_classes=0)


def test_detectors_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = ("transnext_models.detection", "torchvision.")
    for name in [name for name in sys.modules if name.startswith(imported)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(transnext_models, "detection", raising=False)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'transnext-vision\[dense\]'"):
        without_memory("maskrcnn_transnext_tiny")


class _Optimizer:
    """Stands for a class of a training program that is not installed where weights are read."""


@pytest.fixture
def small_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make what is on Tiny smaller: backbone and heads."""
    tiny = VARIANTS["transnext_tiny"]
    sizes = {key: value for key, value in ARCHITECTURE.items() if hasattr(tiny, key)}
    monkeypatch.setitem(VARIANTS, "transnext_tiny", replace(tiny, **sizes))
    for name, heads in SMALL_HEADS.items():
        monkeypatch.setitem(KNOWN_DENSE_MODELS, name, replace(DENSE_MODELS[name], heads=heads))


@pytest.mark.usefixtures("small_tiny")
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("maskrcnn_transnext_tiny", "bare"),
        ("maskrcnn_transnext_tiny", "distributed"),
        ("upernet_transnext_tiny", "mmcv"),
        ("dino_4scale_transnext_tiny", "mmengine"),
        ("mask2former_transnext_tiny", "mmengine"),
    ],
)
def test_files_of_both_runners(name: str, layout: str, tmp_path: Path) -> None:
    """Weights come back bit for bit, whatever the runner wrote around them."""
    state = create_model(name, num_classes=5).state_dict()
    contents: dict[str, Any] = {"state_dict": state, "meta": {"CLASSES": ("a", "b"), "epoch": 12}}
    if layout == "bare":
        contents = state
    elif layout == "mmengine":
        contents["message_hub"] = {"log": _Optimizer()}
        contents["optimizer"] = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}
    elif layout == "distributed":
        contents["state_dict"] = {f"module.{key}": value for key, value in state.items()}
    torch.save(contents, tmp_path / "weights.pth")

    model = create_model(name, weights=tmp_path / "weights.pth")

    assert model.num_classes == 5
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(loaded[key], value), key


@pytest.mark.usefixtures("small_tiny")
@pytest.mark.parametrize("name", SMALL_HEADS)
def test_other_classes(name: str, tmp_path: Path) -> None:
    """All but what depends on the number of classes is kept."""
    state = create_model(name, num_classes=5).state_dict()
    torch.save({"state_dict": state}, tmp_path / "weights.pth")

    loaded = create_model(name, weights=tmp_path / "weights.pth", num_classes=3).state_dict()

    of_classes = METHODS[name.partition("_transnext")[0]].class_parameters
    other = {key for key, x in loaded.items() if x.shape != state[key].shape}
    assert other == {key for key in state if key.startswith(of_classes)}
    for key in state.keys() - other:
        assert torch.equal(loaded[key], state[key]), key


@pytest.mark.usefixtures("small_tiny")
@pytest.mark.parametrize("name", SMALL_HEADS)
def test_backbone_from_a_classifier(name: str, tmp_path: Path) -> None:
    variant = find_dense_model(name).backbone
    state = TransNeXt(**architecture_arguments(variant)).state_dict()
    torch.save({"model": state}, tmp_path / "classifier.pth")

    model = create_model(name, backbone_weights=tmp_path / "classifier.pth")

    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, state[key]), key
    with pytest.raises(CheckpointError, match="give it as backbone_weights"):
        create_model(name, weights=tmp_path / "classifier.pth")


@pytest.mark.usefixtures("small_tiny")
def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    name = "maskrcnn_transnext_tiny"
    state = create_model(name, num_classes=5).state_dict()
    file = tmp_path / "weights.pth"

    def refused(changed: dict[str, torch.Tensor], message: str) -> None:
        torch.save({"state_dict": changed}, file)
        with pytest.raises(CheckpointError, match=message):
            create_model(name, weights=file)

    refused({k: v for k, v in state.items() if k != "neck.lateral_convs.0.conv.bias"}, "1 missing")
    refused(state | {"neck.more": torch.zeros(1)}, "1 not in the model")
    refused(state | {"rpn_head.rpn_cls.bias": torch.zeros(4)}, "1 of another shape")
    refused(state | {"rpn_head.rpn_cls.bias": torch.full((3,), torch.nan)}, "rpn_cls.bias.*NaN")
    torch.save({"state_dict": state}, file)
    with pytest.raises(CheckpointError, match="not those of dino_4scale_transnext_tiny"):
        create_model("dino_4scale_transnext_tiny", weights=file)

    model = create_model(name, num_classes=4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="of another shape"):
        load_dense(model, read_dense(file))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
