"""UPerNet gives the published numbers; names and shapes are in test_published_models.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dense_golden import RAW_TOLERANCE, DenseCase, fill, photo
from transnext_models import create_model
from transnext_models.segmentation import WHOLE, SegmentationModel, total_loss

HEIGHT, WIDTH = 213, 320


@pytest.fixture(scope="module")
def case() -> DenseCase:
    return DenseCase("upernet_tiny")


@pytest.fixture(scope="module")
def upernet() -> SegmentationModel:
    with torch.device("meta"):
        model = create_model("upernet_transnext_tiny")
    fill(model)
    return model.eval()


@torch.no_grad()
def test_upernet_gives_the_published_maps(case: DenseCase, upernet: SegmentationModel) -> None:
    maps = upernet.backbone(photo())
    outputs = {f"feat{i + 1}": x for i, x in enumerate(maps)}
    outputs["head"] = upernet.decode_head(maps)
    outputs["auxiliary"] = upernet.auxiliary_head(maps[2])
    errors = {name: case.relative_error(name, x) for name, x in outputs.items()}
    assert max(errors.values()) <= RAW_TOLERANCE, errors


@torch.no_grad()
def test_upernet_gives_the_published_labels(case: DenseCase, upernet: SegmentationModel) -> None:
    images = photo()
    logits = upernet(images)
    assert case.relative_error("logits", logits[0]) <= RAW_TOLERANCE

    scores = WHOLE.scores(upernet, [images], (HEIGHT, WIDTH))
    values, labels = scores.best()
    different = labels[0].numpy() != case.arrays["pred"]
    assert different.mean() <= 1e-3
    # The stored margin is of every fourth row and column.
    assert (case.arrays["pred_margin"][different[::4, ::4]] < 1e-3).all()
    torch.testing.assert_close(values, logits.amax(1), rtol=0, atol=1e-4)


@torch.no_grad()
def test_upernet_gives_the_published_losses(case: DenseCase, upernet: SegmentationModel) -> None:
    """In evaluation mode, on the photograph padded as in training."""
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    pattern = (row // 16 * 7 + column // 16 * 3) % 150
    pattern[:8] = 255
    images, labels = torch.zeros(1, 3, 512, 512), torch.full((1, 512, 512), 255)
    images[..., :HEIGHT, :WIDTH] = photo()
    labels[0, :HEIGHT, :WIDTH] = torch.from_numpy(pattern)

    losses = upernet.loss(images, labels)

    found = {name: float(x) for name, x in losses.items()} | {"loss": float(total_loss(losses))}
    assert found.keys() == case.losses.keys()
    for name, value in case.losses.items():
        assert found[name] == pytest.approx(value, rel=RAW_TOLERANCE), name
