"""Detectors under torch.compile with its own compiler, and DINO under autocast."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from small_model import small_model
from transnext_models.detection import DINO, MaskRCNN

SIZE = (64, 96)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def dino() -> DINO:
    torch.manual_seed(0)
    backbone = small_model(features_only=True, img_size=64, out_indices=(1, 2, 3)).float()
    return DINO(backbone, num_classes=5, num_queries=10).eval()


def mask_rcnn() -> MaskRCNN:
    torch.manual_seed(0)
    model = MaskRCNN(small_model(features_only=True, img_size=64).float(), num_classes=3)
    with torch.no_grad():  # so that there is something to find
        model.roi_head.bbox_head.fc_cls.weight.mul_(30)
    return model.eval()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("make", [dino, mask_rcnn])
def test_inductor_finds_the_same(make) -> None:
    model: nn.Module = make()
    image = torch.randn(1, 3, *SIZE)
    (expected,) = model(image)
    (found,) = torch.compile(model)(image)
    assert len(found.scores) == len(expected.scores) > 0
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-4)
    distance = torch.cdist(found.boxes, expected.boxes, p=float("inf"))
    assert distance.amin(0).max() < 0.05
    assert distance.amin(1).max() < 0.05


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dino_under_autocast(dtype: torch.dtype) -> None:
    model, image = dino(), torch.randn(1, 3, *SIZE)
    levels = model.neck(model.backbone(image))  # ranks decide all that comes later
    with torch.autocast("cpu", dtype):
        rounded = model.neck(model.backbone(image))
        (found,) = model(image)
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert found.boxes.isfinite().all()
    for level, exact in zip(rounded, levels, strict=True):
        assert (level.float() - exact).norm() < 40 * torch.finfo(dtype).eps * exact.norm()
