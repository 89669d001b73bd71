"""TransNeXt in MMEngine's registry, a stand-in here; `tests/oracle` has the real one."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import transnext_models
from small_model import ARCHITECTURE
from transnext_models import TransNeXt

SMALL = {key: value for key, value in ARCHITECTURE.items() if key != "num_classes"}
INHERITED = {
    "depth": 50, "frozen_stages": 1, "norm_cfg": {"type": "BN"}, "norm_eval": True,
    "init_cfg": {"type": "Pretrained", "checkpoint": "torchvision://resnet50"},
    "out_indices": (1, 2, 3), "style": "pytorch",
}  # fmt: skip


class Registry:
    """Builds what was registered, as MMEngine's does."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}

    def register_module(self, *, name: str, module: Any) -> None:
        assert name not in self.known
        self.known[name] = module

    def build(self, config: dict[str, Any]) -> Any:
        return self.known[config["type"]](**{k: v for k, v in config.items() if k != "type"})


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The registry after the import that `custom_imports` asks for."""
    package, module = types.ModuleType("mmengine"), types.ModuleType("mmengine.registry")
    module.MODELS = Registry()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mmengine", package)
    monkeypatch.setitem(sys.modules, "mmengine.registry", module)
    monkeypatch.delitem(sys.modules, "transnext_models.openmmlab", raising=False)
    importlib.import_module("transnext_models.openmmlab")
    yield module.MODELS
    sys.modules.pop("transnext_models.openmmlab", None)
    vars(transnext_models).pop("openmmlab", None)


@torch.no_grad()
def test_gives_the_maps_of_the_backbone(models: Registry) -> None:
    torch.manual_seed(0)
    config = {"type": "TransNeXt", "img_size": 64, "pretrain_size": 32, **SMALL}
    backbone = models.build(config).eval()
    plain = TransNeXt(**SMALL, img_size=64, pretrain_size=32, features_only=True).eval()
    plain.load_state_dict(backbone.state_dict(), strict=True)
    images = torch.randn(1, 3, 64, 96)
    maps = backbone(images)
    assert len(maps) == 4
    for found, expected in zip(maps, plain(images), strict=True):
        torch.testing.assert_close(found, expected)


def test_keys_of_a_resnet_change_nothing(models: Registry) -> None:
    backbone = models.build({"type": "TransNeXt", **SMALL, **INHERITED})
    backbone.init_weights()
    backbone.train()
    assert all(x.requires_grad for x in backbone.parameters())
    assert len(backbone(torch.randn(1, 3, 32, 32))) == 4


def test_stages_choose_maps(models: Registry) -> None:
    backbone = models.build({"type": "TransNeXt", **SMALL, "stages": (1, 2, 3)})
    assert [x.shape[1] for x in backbone(torch.randn(1, 3, 32, 32))] == [16, 24, 32]
    assert "norm1.weight" in backbone.state_dict()


def test_init_weights_loads_the_classifier(models: Registry, tmp_path: Path) -> None:
    torch.manual_seed(1)
    classifier = TransNeXt(**ARCHITECTURE)
    file = tmp_path / "classifier.safetensors"
    save_file(classifier.state_dict(), file)
    backbone = models.build({"type": "TransNeXt", **SMALL, "pretrained": str(file)})
    backbone.init_weights()
    wanted = classifier.state_dict()
    for name, value in backbone.state_dict().items():
        torch.testing.assert_close(value, wanted[name], rtol=0, atol=0)


def test_published_sizes_need_no_architecture(models: Registry) -> None:
    with torch.device("meta"):
        backbone = models.build(
            {"type": "transnext_tiny", "img_size": 800, "pretrain_size": 224, "pretrained": None}
        )
    assert round(sum(x.numel() for x in backbone.parameters()) / 1e6, 3) == 27.682
    assert {"transnext_small", "transnext_base"} < set(models.known)


def test_unknown_options_are_named(models: Registry) -> None:
    with pytest.raises(TypeError, match="TransNeXt: got unknown option 'dephts', needs one of"):
        models.build({"type": "TransNeXt", **SMALL, "dephts": 1})


def test_without_mmengine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mmengine", None)
    monkeypatch.delitem(sys.modules, "mmengine.registry", raising=False)
    monkeypatch.delitem(sys.modules, "transnext_models.openmmlab", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'transnext-vision\[openmmlab\]'"):
        importlib.import_module("transnext_models.openmmlab")
