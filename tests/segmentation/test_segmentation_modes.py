"""The models under autocast, torch.compile, training, and for what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segmentation_models import METHODS, small_segmentor
from small_model import small_model
from transnext_models.dense.batches import pad_images
from transnext_models.segmentation import SegmentationModel, UPerNet, total_loss
from transnext_models.segmentation.pixel_losses import pixel_accuracy, pixel_cross_entropy


@pytest.fixture(params=METHODS)
def model(request) -> SegmentationModel:
    return small_segmentor(request.param).float()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_little(model: SegmentationModel, dtype: torch.dtype) -> None:
    images = torch.randn(1, 3, 64, 96)
    expected = model(images)
    with torch.autocast("cpu", dtype):
        scores = model.score_rows(images).whole()
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    error = (scores - expected).norm() / (expected - expected.mean(1, keepdim=True)).norm()
    assert error < 40 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_under_autocast_are_finite_float32(
    model: SegmentationModel, dtype: torch.dtype
) -> None:
    labels = torch.randint(0, 5, (2, 32, 32))
    with torch.autocast("cpu", dtype):
        losses = model.loss(torch.randn(2, 3, 32, 32), labels)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32, name
        assert loss.isfinite(), name
    total_loss(losses).backward()


@torch.no_grad()
def test_images_of_different_sizes_in_a_batch(model: SegmentationModel) -> None:
    """Each has the scores of itself alone, padded alike, and of its own size."""
    model = model.double()
    sizes = [(64, 96), (50, 70)]
    images, _ = pad_images([torch.randn(3, *size).double() for size in sizes])
    found = model.score_each(images, sizes)
    for image, (height, width), rows in zip(images, sizes, found, strict=True):
        scores = rows.whole()
        assert scores.shape == (1, 5, height, width)
        torch.testing.assert_close(scores, model(image[None])[..., :height, :width])
    with pytest.raises(ValueError, match="sizes: got 65 x 96, needs 1 x 1 to the batch's 64 x 96"):
        model.score_each(images, [(65, 96), (1, 1)])


@torch.no_grad()
def test_batches_give_what_single_images_give(model: SegmentationModel) -> None:
    model = model.double()
    images = torch.randn(3, 3, 64, 96).double()
    together = model(images)
    for image, scores in zip(images, together, strict=True):
        torch.testing.assert_close(model(image[None])[0], scores)


def test_a_step_lowers_the_loss(model: SegmentationModel) -> None:
    model = model.train()
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(0, 5, (2, 8, 8))
    labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-5)
    losses = []
    for _ in range(4):
        torch.manual_seed(0)
        loss = total_loss(model.loss(images, labels))
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < losses[0]
    assert all(x.grad is not None for x in model.parameters())


def test_batch_norms_can_be_synchronised() -> None:
    model = small_segmentor("upernet")
    keys = list(model.state_dict())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert list(converted.state_dict()) == keys
    assert sum(isinstance(x, nn.SyncBatchNorm) for x in converted.modules()) == 13


def test_ignored_pixels_count_in_the_mean() -> None:
    logits = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    labels = torch.tensor([[[0, 1], [255, 255]]])
    right, wrong = -logits[0, :, 0, 0].log_softmax(0)
    assert pixel_cross_entropy(logits, labels).item() == pytest.approx(float(right + wrong) / 4)
    assert pixel_accuracy(logits, labels).item() == 50.0
    assert pixel_accuracy(logits, torch.full((1, 2, 2), 255)).item() == 0.0


def test_labels_that_do_not_fit_are_refused(model: SegmentationModel) -> None:
    images = torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"labels: got class 5, needs 0…4, or 255 for none"):
        model.loss(images, torch.full((1, 64, 64), 5))
    with pytest.raises(ValueError, match=r"labels: got torch.int64 \(1, 64, 32\), needs integers"):
        model.loss(images, torch.zeros(1, 64, 32, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"labels: got torch.float32"):
        model.loss(images, torch.zeros(1, 64, 64))


def test_backbones_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="backbone: got another one, needs features_only=True"):
        UPerNet(small_model())
    with pytest.raises(ValueError, match="backbone: got another one"):
        UPerNet(small_model(features_only=True, out_indices=(1, 2, 3)))
    with pytest.raises(ValueError, match="num_classes: got 0, needs at least 1"):
        UPerNet(small_model(features_only=True), num_classes=0)


def test_frozen_models_give_the_same(model: SegmentationModel) -> None:
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model(images)
        torch.testing.assert_close(model.freeze()(images), expected, rtol=1e-4, atol=1e-4)
