"""Mask R-CNN gives the published numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dense_golden import RAW_TOLERANCE, DenseCase, fill, photo
from transnext_models import create_model
from transnext_models.detection import Annotated, MaskRCNN
from transnext_models.detection.assignment import Sampler
from transnext_models.detection.rpn import ProposalSettings

SIZE = (213, 320)


@pytest.fixture(scope="module")
def case() -> DenseCase:
    return DenseCase("maskrcnn_tiny")


@pytest.fixture(scope="module")
def model() -> MaskRCNN:
    with torch.device("meta"):
        model = create_model("maskrcnn_transnext_tiny")
    fill(model)
    return model.eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return F.pad(photo(), (0, 0, 0, 224 - SIZE[0]))


def stored(case: DenseCase, name: str) -> torch.Tensor:
    return torch.from_numpy(case.arrays[name])


@torch.no_grad()
def test_raw_outputs(case: DenseCase, model: MaskRCNN, images: torch.Tensor) -> None:
    backbone = model.backbone(images)
    maps = model.neck(backbone)
    logits, moves = model.rpn_head(maps)
    box_logits, box_moves = model.roi_head.boxes_of(maps, [stored(case, "proposals")])
    masks = model.roi_head.masks_of(maps, [stored(case, "pred_boxes")])
    outputs = {"box_cls": box_logits, "box_reg": box_moves, "mask_logits": masks}
    for name, values in (
        ("feat", backbone), ("neck", maps), ("rpn_cls", logits), ("rpn_reg", moves)
    ):  # fmt: skip
        outputs |= {f"{name}{i + 1}": x for i, x in enumerate(values)}
    errors = {name: case.relative_error(name, x) for name, x in outputs.items()}
    assert max(errors.values()) <= RAW_TOLERANCE, errors


@torch.no_grad()
def test_proposals(case: DenseCase, model: MaskRCNN, images: torch.Tensor) -> None:
    """As a set: scores that differ in the last bit change the order."""
    logits, moves = model.rpn_head(model.pyramid(images))
    (found,) = model.rpn_head.proposals(logits, moves, [SIZE], ProposalSettings())
    wanted = stored(case, "own_proposals")
    distance = torch.cdist(found.boxes.double(), wanted.double(), p=float("inf"))
    assert len(found.boxes) == len(wanted)
    assert (distance.amin(1) < 0.01).float().mean() >= 0.99
    assert (distance.amin(0) < 0.01).float().mean() >= 0.99
    torch.testing.assert_close(found.scores, stored(case, "proposal_scores"), rtol=0, atol=1e-4)


@torch.no_grad()
def test_detections(case: DenseCase, model: MaskRCNN, images: torch.Tensor) -> None:
    (found,) = model(images, [SIZE])
    boxes, labels = stored(case, "pred_boxes"), stored(case, "pred_labels")
    scores = stored(case, "pred_scores")
    same = (
        (torch.cdist(found.boxes.double(), boxes.double(), p=float("inf")) < 0.05)
        & (found.labels[:, None] == labels)
        & ((found.scores[:, None] - scores).abs() < 1e-3)
    )
    assert len(found.boxes) == len(boxes)
    assert same.any(1).float().mean() >= 0.98
    assert same.any(0).float().mean() >= 0.98

    packed = np.unpackbits(case.arrays["pred_masks_packed"], axis=1)
    masks = torch.from_numpy(packed).reshape(-1, *SIZE).bool()
    np.testing.assert_array_equal(masks.sum((1, 2)).numpy(), case.arrays["pred_mask_area"])
    assert found.masks is not None
    for i, j in same.nonzero().tolist():
        if masks[j].sum() > 100:
            both = (found.masks[i] & masks[j]).sum()
            assert both / (found.masks[i] | masks[j]).sum() >= 0.99


def annotation() -> Annotated:
    """Three boxes with an ellipse in each."""
    boxes = torch.tensor([[20, 30, 140, 150], [100, 60, 300, 200], [180, 10, 230, 70]]).float()
    y, x = torch.meshgrid(torch.arange(224) + 0.5, torch.arange(320) + 0.5, indexing="ij")
    masks = [
        ((x - (x0 + x1) / 2) / ((x1 - x0) / 2)) ** 2 + ((y - (y0 + y1) / 2) / ((y1 - y0) / 2)) ** 2
        <= 1
        for x0, y0, x1, y1 in boxes.tolist()
    ]
    return Annotated(SIZE, boxes, torch.tensor([1, 56, 17]), torch.stack(masks))


@torch.no_grad()
def test_losses(
    case: DenseCase, model: MaskRCNN, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every candidate sampled, so that nothing is random."""
    everything = Sampler(10**7, 1.0)
    monkeypatch.setattr(model.rpn_head, "sampler", everything)
    monkeypatch.setattr(model.roi_head, "sampler", everything)
    target = annotation()
    maps = model.pyramid(images)
    losses = model.rpn_head.loss(*model.rpn_head(maps), [(224, 320)], [target.boxes])
    losses |= model.roi_head.loss(maps, [stored(case, "loss_proposals")], [target])
    losses["loss"] = torch.stack([x for name, x in losses.items() if "loss" in name]).sum()
    assert losses.keys() == case.losses.keys()
    for name, value in case.losses.items():
        assert float(losses[name]) == pytest.approx(value, rel=RAW_TOLERANCE), name
