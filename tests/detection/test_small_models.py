"""The two small models of this project: their names, sizes, heads and weights from files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from transnext_models import create_model, list_models
from transnext_models.checkpoints import WeightsWarning, read_weights
from transnext_models.checkpoints.hub import resolve_weights
from transnext_models.dense.published import DEMONSTRATORS, DENSE_MODELS
from transnext_models.detection.anchors import RATIOS
from transnext_models.detection.records import Annotated

MOST_PARAMETERS = 1_400_000
DETECTOR, SEGMENTOR = "maskrcnn_transnext_pico", "upernet_transnext_pico"


def test_they_are_known_beside_the_published_ones() -> None:
    assert list(DEMONSTRATORS) == [DETECTOR, SEGMENTOR]
    assert not set(DEMONSTRATORS) & set(DENSE_MODELS)
    assert list_models("*_transnext_pico") == [DETECTOR, SEGMENTOR]
    assert list_models("*.digit_scenes") == [f"{name}.digit_scenes" for name in DEMONSTRATORS]
    assert not [name for name in list_models("*_coco") if "pico" in name]


@pytest.mark.parametrize("name", DEMONSTRATORS)
def test_state_dict_has_the_published_names(name: str) -> None:
    with torch.device("meta"):
        small, published = create_model(name), create_model(name.replace("pico", "tiny"))
    assert sum(x.numel() for x in small.parameters()) <= MOST_PARAMETERS

    def of_heads(model: torch.nn.Module) -> list[str]:
        return [key for key in model.state_dict() if not key.startswith("backbone.")]

    assert of_heads(small) == of_heads(published)


def test_backbone_has_the_weights_of_the_classifier() -> None:
    state = read_weights(resolve_weights("transnext_pico")).state_dict
    model = create_model(DETECTOR, backbone_weights="transnext_pico")
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, state[key].float()), key


@pytest.mark.parametrize("size", [(32, 32), (96, 160), (64, 224)])
def test_any_size(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, *size)
    for found in create_model(DETECTOR).eval()(images):
        assert found.boxes.shape == (len(found.scores), 4)
        assert found.masks.shape == (len(found.scores), *size)
    assert create_model(SEGMENTOR).eval()(images).shape == (2, 11, *size)


def test_anchors_are_small_and_few_proposals_are_made() -> None:
    torch.manual_seed(0)
    model = create_model(DETECTOR).eval()
    anchors = model.rpn_head.anchors((2, 2), 4, torch.zeros(1))
    sides = anchors[:, 2:] - anchors[:, :2]
    torch.testing.assert_close(sides.prod(-1), torch.full((4 * len(RATIOS),), 16.0**2))
    with torch.no_grad():
        logits, moves = model.rpn_head(model.pyramid(torch.randn(1, 3, 96, 96)))
    (found,) = model.rpn_head.proposals(logits, moves, [(96, 96)], model.proposals)
    assert 0 < len(found.boxes) <= 200


def test_losses_look_at_few_samples_and_reach_every_parameter() -> None:
    torch.manual_seed(0)
    model = create_model(DETECTOR)
    assert (model.rpn_head.sampler.count, model.roi_head.sampler.count) == (128, 32)
    mask = torch.zeros(1, 64, 64, dtype=torch.uint8)
    mask[:, 10:40, 20:44] = 1
    target = Annotated((64, 64), torch.tensor([[20.0, 10, 44, 40]]), torch.tensor([3]), mask)
    losses = model.loss(torch.randn(1, 3, 64, 64), [target])
    torch.stack([value for name, value in losses.items() if "loss" in name]).sum().backward()
    assert all(x.grad is not None for x in model.parameters())


def test_names_of_classes_come_with_the_weights(tmp_path: Path) -> None:
    state = {key: x.half() for key, x in create_model(DETECTOR, num_classes=2).state_dict().items()}
    file = tmp_path / "weights.safetensors"

    save_file(state, file, {"class_names": json.dumps(["cat", "dog"])})
    assert create_model(DETECTOR, weights=file).class_names == ["cat", "dog"]
    assert create_model(DETECTOR, weights=file, num_classes=3).class_names is None

    save_file(state, file, {"class_names": json.dumps(["cat"])})
    with pytest.warns(WeightsWarning, match="1 names, and it has 2 classes"):
        assert create_model(DETECTOR, weights=file).class_names is None
