"""The digits' split is fixed, the shipped samples are held out, the augmentation keeps its
promises."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from transnext_models.training import digits as digits_module
from transnext_models.training.digit_augmentation import DigitAugmentation, pen_distances
from transnext_models.training.digits import (
    Digits,
    export_samples,
    held_out_digits,
    load_digits,
    load_split,
)

TRAINING_SHA256 = "97416660a56405c32a34d609eb69e2bd90cc41477ac9a503494fb581c8bb2a64"
HELD_OUT_SHA256 = "95dbcc51727c17117d953b5582e477045d6ee9f2d27d0c8a50ed0ec70f24be17"
SAMPLES = Path(str(resources.files("transnext_models"))) / "assets" / "samples"


def _pixels(digits: Digits) -> set[bytes]:
    return {image.tobytes() for image in digits.images}


def test_split_is_fixed_disjoint_and_balanced() -> None:
    training, held_out = load_split()
    assert (training.sha256(), held_out.sha256()) == (TRAINING_SHA256, HELD_OUT_SHA256)
    assert np.bincount(training.labels).tolist() == [400] * 10
    assert np.bincount(held_out.labels).tolist() == [100] * 10
    assert not _pixels(training) & _pixels(held_out)
    together = np.concatenate([training.indices, held_out.indices])
    assert sorted(together.tolist()) == list(range(5000))
    everything = load_digits()
    for part in (training, held_out):
        assert np.array_equal(part.images, everything.images[part.indices])
        assert np.array_equal(part.labels, everything.labels[part.indices])


def test_split_does_not_depend_on_the_order_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = _pixels(held_out_digits())
    everything = load_digits()
    order = np.random.default_rng(0).permutation(len(everything))
    monkeypatch.setattr(digits_module, "load_digits", lambda: everything.subset(order))
    assert _pixels(held_out_digits()) == expected


def test_another_seed_holds_other_digits_out() -> None:
    assert len(_pixels(load_split(seed=1)[1]) & _pixels(held_out_digits())) < 400


def test_shipped_samples_are_held_out_digits() -> None:
    files = sorted(SAMPLES.glob("*.png"))
    assert len(files) >= 10
    everything, held_out = load_digits(), held_out_digits()
    labels = set()
    for file in files:
        named = re.fullmatch(r"digit_(\d)_heldout_(\d{4})", file.stem)
        assert named is not None, file.name
        label, index = int(named[1]), int(named[2])
        assert index in held_out.indices
        assert everything.labels[index] == label
        with Image.open(file) as image:
            assert (image.mode, image.size) == ("L", (28, 28))
            pixels = np.asarray(image)
        original = everything.images[index]
        assert np.array_equal(pixels, original) or np.array_equal(pixels, 255 - original)
        labels.add(label)
    assert labels == set(range(10))


def test_samples_are_reproduced_by_the_command(tmp_path: Path) -> None:
    digits_module.main(["export-samples", str(tmp_path)])
    written = {file.name: np.asarray(Image.open(file)) for file in tmp_path.iterdir()}
    shipped = {file.name: np.asarray(Image.open(file)) for file in SAMPLES.glob("*.png")}
    assert written.keys() == shipped.keys()
    assert all(np.array_equal(written[name], shipped[name]) for name in shipped)


@pytest.mark.parametrize("count", [0, 101])
def test_impossible_number_of_samples_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match=f"per_class: got {count}, needs 1 to 100"):
        export_samples(tmp_path, count)


def test_pen_distance_is_zero_on_the_line_and_grows_away_from_it() -> None:
    image = np.zeros((1, 28, 28), dtype=np.uint8)
    image[0, 4:24, 12:16] = 255  # a thick vertical line around x = 14
    distance = pen_distances(image)[0].astype(np.float64)
    row = distance[28]  # halfway down; a sample is half a pixel wide
    assert row.min() == 0
    assert abs(int(row.argmin()) - 27.5) <= 1
    centre = int(row.argmin())
    assert np.allclose(row[centre : centre + 8], np.arange(8) / 2)
    assert distance.max() == 6


@pytest.fixture(scope="module")
def augmentation() -> DigitAugmentation:
    return DigitAugmentation(load_split()[0].images[::40], size=64)


def test_augmentation_gives_images_and_follows_its_generator(
    augmentation: DigitAugmentation,
) -> None:
    indices = torch.arange(100)
    first = augmentation(indices, torch.Generator().manual_seed(3))
    again = augmentation(indices, torch.Generator().manual_seed(3))
    other = augmentation(indices, torch.Generator().manual_seed(4))
    assert (first.shape, first.dtype) == ((100, 3, 64, 64), torch.float32)
    assert first.isfinite().all()
    assert (first.min() >= 0, first.max() <= 1) == (True, True)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_augmentation_has_both_polarities_all_places_and_all_sizes(
    augmentation: DigitAugmentation,
) -> None:
    images = augmentation(torch.arange(100).repeat(4), torch.Generator().manual_seed(0))
    border = torch.cat([images[..., 0, :], images[..., -1, :]], dim=-1).mean(dim=(1, 2))
    light_paper = (border > 0.5).float().mean()
    assert 0.35 < light_paper < 0.8
    grey = images.mean(dim=1)
    ink = (grey - grey.flatten(1).median(dim=1).values.view(-1, 1, 1)).abs() > 0.3
    rows, columns = ink.any(dim=2), ink.any(dim=1)
    assert columns[:, :6].any(dim=1).float().mean() > 0.1
    assert columns[:, -6:].any(dim=1).float().mean() > 0.1
    heights = rows.sum(dim=1)
    assert (heights < 28).float().mean() > 0.1
    assert (heights > 50).float().mean() > 0.1
