"""Digits on photographs: a set that both tasks read, the same for a seed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from requirements import needs
from transnext_models.dense_data.datasets import images_to_train_on
from transnext_models.dense_data.digit_scenes import (
    CLASSES,
    PHOTOGRAPHS,
    SIZE,
    draw_scenes,
    write_samples,
    write_scenes,
)
from transnext_models.dense_data.find import open_annotations
from transnext_models.dense_data.pipelines import METHODS
from transnext_models.dense_data.reading import read_sample

pytestmark = needs("mlxtend", "scikit-learn", "scikit-image")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("scenes")
    write_scenes(place, train=12, val=5)
    return place


def test_it_serves_both_tasks(folder: Path) -> None:
    objects, maps = open_annotations(folder, "detect"), open_annotations(folder, "segment")
    assert objects.kind == "COCO"
    assert objects.train.class_names == CLASSES
    assert maps.train.class_names == ("photograph", *CLASSES)
    assert (len(objects.train), len(objects.val)) == (len(maps.train), len(maps.val)) == (12, 5)
    assert objects.train.has_masks
    assert objects.train.report.lines() == []
    assert len(images_to_train_on(objects.train, METHODS["maskrcnn"])) == 12


def test_masks_boxes_and_label_maps_say_the_same(folder: Path) -> None:
    pairs = zip(
        open_annotations(folder, "detect").train.images,
        open_annotations(folder, "segment").train.images,
        strict=True,
    )
    for of_objects, of_map in pairs:
        sample = read_sample(of_objects, for_training=True, with_masks=True)
        label_map = np.zeros(SIZE, int)
        for mask, box, label in zip(sample.masks, sample.boxes, sample.labels, strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert not label_map[mask > 0].any()  # what is covered belongs to what covers it
            label_map[mask > 0] = label + 1
        expected = read_sample(of_map, for_training=True, num_classes=11).label_map
        np.testing.assert_array_equal(label_map, expected)


def test_digits_can_be_seen() -> None:
    """Every digit has its ink, hardly covered, unlike what is around it."""
    for scene in draw_scenes("train", 12, seed=3):
        grey = scene.image.mean(-1)
        assert 1 <= len(scene.masks) <= 6
        for mask in scene.masks:
            inside = mask > 0
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            around = ~inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            window = grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert inside.sum() >= 40
            assert abs(grey[inside].mean() - np.median(window[around])) >= 25


def test_splits_share_nothing() -> None:
    assert not set(PHOTOGRAPHS["train"]) & set(PHOTOGRAPHS["val"])
    train, val = (next(draw_scenes(split, 1)).image for split in ("train", "val"))
    assert (train != val).any()


def test_samples_are_the_first_of_validation(folder: Path, tmp_path: Path) -> None:
    write_samples(tmp_path, 2)
    for index in range(2):
        with Image.open(tmp_path / f"scene_{index:02}.jpg") as compressed:
            pixels = np.asarray(compressed, float)
        with Image.open(folder / "images" / "val" / f"{index:05}.png") as exact:
            assert np.abs(pixels - np.asarray(exact)).mean() < 6


def test_even_and_odd_digits_are_two_classes(folder: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path, train=2, val=1, classes=2)
    of_digits, of_parity = (open_annotations(at, "detect").train for at in (folder, tmp_path))
    assert of_parity.class_names == ("even", "odd")
    maps = open_annotations(tmp_path, "segment").train
    assert maps.class_names == ("photograph", "even", "odd")
    for index in range(2):
        digits, parity = (
            read_sample(images[index], for_training=True, with_masks=False)
            for images in (of_digits.images, of_parity.images)
        )
        label_map = np.asarray(Image.open(tmp_path / "masks" / "train" / f"{index:05}.png"))
        assert set(np.unique(label_map)) == {0, *(label + 1 for label in parity.labels)}
        assert parity.labels.tolist() == [label % 2 for label in digits.labels]


@pytest.mark.slow
def test_the_command_writes_the_same_set_again(folder: Path, tmp_path: Path) -> None:
    module = "transnext_models.dense_data.digit_scenes"
    options = ["--train", "2", "--val", "1"]
    subprocess.run([sys.executable, "-m", module, str(tmp_path), *options], check=True)
    for name in ("images/train/00001.png", "masks/train/00001.png", "images/val/00000.png"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
