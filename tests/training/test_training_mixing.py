"""Mixup and CutMix: timm's draws and values, the published box, no look at the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from timm.data import Mixup

from recorded_work import RecordedWork
from transnext_models.training.mixing import BatchMixer, soft_targets

CLASSES = 7


def mixer(**changed: Any) -> BatchMixer:
    published = {"mixup": 0.8, "cutmix": 1.0, "switch": 0.5, "smoothing": 0.1}
    return BatchMixer(**{**published, **changed}, num_classes=CLASSES)


def timms(**changed: Any) -> Mixup:
    published = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "switch_prob": 0.5}
    return Mixup(**{**published, **changed}, label_smoothing=0.1, num_classes=CLASSES)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 9, 12, generator=generator)
    return images, torch.randint(CLASSES, (4,), generator=generator)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (mixer(), timms()),
        (mixer(cutmix=0.0), timms(cutmix_alpha=0.0)),
        (mixer(mixup=0.0), timms(mixup_alpha=0.0)),
    ],
    ids=["both", "mixup", "cutmix"],
)
def test_the_values_of_timm(
    ours: BatchMixer, theirs: Mixup, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """Wherever timm's box has even sides, in which this version has the published extent."""
    images, labels = batch
    compared = 0
    for seed in range(200):
        np.random.seed(seed)  # noqa: NPY002
        numbers = ours.draw(9, 12)
        following = np.random.rand()  # noqa: NPY002
        np.random.seed(seed)  # noqa: NPY002
        expected = theirs(images.clone(), labels)
        assert np.random.rand() == following  # noqa: NPY002 -- as many draws
        got = ours(images, labels, numbers)
        if _cut_off_or_odd(images, expected[0], got[0]):
            continue
        compared += 1
        for value, right in zip(got, expected, strict=True):
            torch.testing.assert_close(value, right, atol=1e-6, rtol=0)
    assert compared >= 60


def _cut_off_or_odd(images: torch.Tensor, theirs: torch.Tensor, ours: torch.Tensor) -> bool:
    """Whether timm's box is larger than the published one by a row or a column."""
    partners = images.flip(0)
    boxes = [(mixed == partners).all(dim=(0, 1)) for mixed in (theirs, ours)]
    return bool(boxes[0].any()) and not torch.equal(*boxes)


def test_the_published_box() -> None:
    """Half the side, rounded down, on each side of the centre; λ is what is left."""
    ours = mixer(mixup=0.0)
    for seed in range(300):
        np.random.seed(seed)  # noqa: NPY002
        numbers = ours.draw(11, 8)
        np.random.seed(seed)  # noqa: NPY002
        np.random.rand()  # noqa: NPY002 -- whether to mix
        weight = np.random.beta(1.0, 1.0)  # noqa: NPY002
        row, column = np.random.randint(11), np.random.randint(8)  # noqa: NPY002
        sides = [int(side * np.sqrt(1 - weight)) for side in (11, 8)]
        top, bottom = np.clip([row - sides[0] // 2, row + sides[0] // 2], 0, 11)
        left, right = np.clip([column - sides[1] // 2, column + sides[1] // 2], 0, 8)
        assert numbers[2:].tolist() == [top, bottom, left, right]
        assert numbers[0].item() == pytest.approx(1 - (bottom - top) * (right - left) / 88)


def test_smooth_targets() -> None:
    targets = soft_targets(torch.tensor([2, 0]), 4, 0.1)
    torch.testing.assert_close(
        targets, torch.tensor([[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]])
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_one_recording_for_all_numbers(
    dtype: torch.dtype, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, labels = batch[0].to(dtype), batch[1]
    ours, numbers = mixer(), torch.zeros(6)
    mixed, targets = torch.empty_like(images), torch.empty(4, CLASSES)

    def work() -> None:
        for buffer, value in zip((mixed, targets), ours(images, labels, numbers), strict=True):
            buffer.copy_(value)

    replay = RecordedWork().record(work)
    for seed in range(20):
        np.random.seed(seed)  # noqa: NPY002
        numbers.copy_(ours.draw(9, 12))
        replay()
        expected = ours(images, labels, numbers)
        assert mixed.dtype == dtype
        assert torch.equal(mixed, expected[0])
        assert torch.equal(targets, expected[1])
