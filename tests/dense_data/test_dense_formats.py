"""The same data set in every format gives the same records."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from dense_data.written_sets import (
    CATEGORY_IDS,
    DETECTION,
    HEIGHT,
    NAMES,
    OBJECTS,
    SEGMENTATION,
    WIDTH,
    WITH_MASKS,
    class_map,
)
from transnext_models.dense_data.batches import collate
from transnext_models.dense_data.datasets import TestSamples, TrainingSamples, images_to_train_on
from transnext_models.dense_data.errors import AnnotationError
from transnext_models.dense_data.find import open_annotations, open_validation
from transnext_models.dense_data.geometry import Flip
from transnext_models.dense_data.orientation import OrientedOrder
from transnext_models.dense_data.pipelines import METHODS
from transnext_models.dense_data.reading import read_sample
from transnext_models.dense_data.sample import Pipeline
from transnext_models.training.sampling import EpochBatches, Sample


@pytest.mark.parametrize("name", DETECTION)
def test_every_format_of_boxes_gives_the_same_records(name: str, tmp_path: Path) -> None:
    DETECTION[name](tmp_path)
    splits = open_annotations(tmp_path, "detect")
    for split in ("train", "val"):
        annotated = getattr(splits, split)
        assert annotated.class_names == NAMES
        assert len(annotated) == len(OBJECTS[split])
        assert annotated.has_masks == (name in WITH_MASKS)
        for image, (stem, boxes) in zip(annotated.images, OBJECTS[split].items(), strict=True):
            assert Path(image.path).stem == stem
            assert image.size == (HEIGHT, WIDTH)
            objects = image.objects
            assert objects.labels.tolist() == [label for label, *_ in boxes]
            expected = np.array([box for _, *box in boxes]).reshape(-1, 4)
            np.testing.assert_allclose(objects.boxes, expected, atol=1e-9)
            areas = (expected[:, 2:] - expected[:, :2]).prod(1)
            np.testing.assert_allclose(objects.areas, areas, atol=1e-9)
            assert objects.trainable(image.size).all()


@pytest.mark.parametrize("name", WITH_MASKS)
def test_every_format_of_masks_gives_the_same_bitmaps(name: str, tmp_path: Path) -> None:
    DETECTION[name](tmp_path)
    for image in open_annotations(tmp_path, "detect").train.images:
        sample = read_sample(image, for_training=True, with_masks=True)
        assert sample.masks.shape == (len(sample.boxes), HEIGHT, WIDTH)
        for mask, (left, top, right, bottom) in zip(
            sample.masks, sample.boxes.astype(int), strict=True
        ):
            expected = np.zeros((HEIGHT, WIDTH), np.uint8)
            expected[top:bottom, left:right] = 1
            np.testing.assert_array_equal(mask, expected)


def test_category_ids_are_those_of_the_file(tmp_path: Path) -> None:
    DETECTION["coco"](tmp_path)
    splits = open_annotations(tmp_path, "detect")
    assert splits.kind == "COCO"
    assert splits.train.category_ids == CATEGORY_IDS
    assert [image.image_id for image in splits.train.images] == [101, 102, 103]


@pytest.mark.parametrize("name", SEGMENTATION)
def test_every_format_of_label_maps_gives_the_same_labels(name: str, tmp_path: Path) -> None:
    SEGMENTATION[name](tmp_path)
    splits = open_annotations(tmp_path, "segment")
    is_ade20k = name == "ade20k"
    assert splits.train.num_classes == splits.val.num_classes == (2 if is_ade20k else 3)
    if name == "palette_maps":
        assert splits.train.class_names == ("ground", *NAMES)
    if is_ade20k:
        assert splits.train.class_names == NAMES
    for split in ("train", "val"):
        annotated = getattr(splits, split)
        for image, boxes in zip(annotated.images, OBJECTS[split].values(), strict=True):
            sample = read_sample(image, for_training=True, num_classes=annotated.num_classes)
            expected = class_map(boxes).astype(int)
            if is_ade20k:  # 0 is no class, and k is class k - 1
                expected = np.where(expected == 0, 255, expected - 1)
            np.testing.assert_array_equal(sample.label_map, expected)


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", ["label_maps", "palette_maps", "ade20k"])
def test_label_maps_may_stay_in_their_archive(name: str, kind: str, tmp_path: Path) -> None:
    SEGMENTATION[name](tmp_path / "ADEChallengeData2016")
    (tmp_path / "ADEChallengeData2016" / ".DS_Store").touch()
    base, top = str(tmp_path / "packed" / "ADEChallengeData2016"), "ADEChallengeData2016"
    archive = Path(shutil.make_archive(base, kind, tmp_path, top))
    unpacked = open_annotations(tmp_path / "ADEChallengeData2016", "segment")
    place = archive.parent if (name, kind) == ("ade20k", "zip") else archive
    packed = open_annotations(place, "segment")
    assert packed.kind == unpacked.kind
    assert packed.train.class_names == unpacked.train.class_names
    for split in ("train", "val"):
        pairs = zip(getattr(packed, split).images, getattr(unpacked, split).images, strict=True)
        for one, other in pairs:
            classes = packed.train.num_classes
            mine = read_sample(one, for_training=True, num_classes=classes)
            theirs = read_sample(other, for_training=True, num_classes=classes)
            np.testing.assert_array_equal(mine.image, theirs.image)
            np.testing.assert_array_equal(mine.label_map, theirs.label_map)
    if name == "ade20k":
        validation, described = open_validation(place, "segment")
        assert (len(validation), described) == (2, "ADE20K")


def test_a_damaged_archive_of_label_maps_is_named(tmp_path: Path) -> None:
    archive = tmp_path / "ADEChallengeData2016.zip"
    archive.write_bytes(b"PK\x03\x04 and no more")
    for place in (archive, tmp_path):
        with pytest.raises(AnnotationError, match=r"ADEChallengeData2016\.zip.*as an archive"):
            open_annotations(place, "segment")


def test_samples_of_a_run_depend_on_their_place_only(tmp_path: Path) -> None:
    DETECTION["coco"](tmp_path)
    train = open_annotations(tmp_path, "detect").train
    method = METHODS["maskrcnn"]
    images = images_to_train_on(train, method)
    assert [Path(image.path).stem for image in images] == ["a", "b"]  # c has no object
    assert len(images_to_train_on(train, METHODS["dino"])) == 3
    samples = TrainingSamples(images, method, seed=3, num_classes=train.num_classes)
    seen = {}
    for position in (0, 1, 2, 3, 2, 1, 0):
        image = samples[Sample(0, position, 0)].image
        np.testing.assert_array_equal(image, seen.setdefault(position, image))
    mirrored = [np.array_equal(image, seen[0]) for image in seen.values()]
    assert not all(mirrored)
    tests = TestSamples(train.images, method)
    assert tests[2].size == (800, 1200)
    assert tests[2].boxes is None


def test_small_images_are_not_trained_on_by_mask_rcnn(tmp_path: Path) -> None:
    DETECTION["coco"](tmp_path)
    train = open_annotations(tmp_path, "detect").train
    images = [replace(image, size=(31, 60)) for image in train.images]
    assert images_to_train_on(replace(train, images=images), METHODS["maskrcnn"]) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_the_same_batches_with_any_number_of_processes(
    workers: int, tmp_path: Path
) -> None:
    DETECTION["coco"](tmp_path)
    train = open_annotations(tmp_path, "detect").train
    method = replace(METHODS["maskrcnn"], training=Pipeline((Flip(),)))
    images = images_to_train_on(train, method)
    order = OrientedOrder([image.size[1] > image.size[0] for image in images], 5, 2)
    batches = EpochBatches(order, len(order), 2)
    samples = TrainingSamples(images, method, seed=5, num_classes=2)
    loader = DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=partial(collate, divisor=method.training_divisor),
    )
    for batch, expected in zip(loader, batches, strict=True):
        again = collate([samples[sample] for sample in expected], divisor=32)
        assert batch.images.shape == (2, 3, 64, 64)
        assert batch.images.equal(again.images)
        assert batch.image_ids == again.image_ids
        for mask, other in zip(batch.masks, again.masks, strict=True):
            assert mask.equal(other)


@pytest.mark.parametrize("kind", sorted(DETECTION))
def test_images_are_held_back_where_there_is_no_other_split(kind: str, tmp_path: Path) -> None:
    DETECTION[kind](tmp_path)
    whole = open_annotations(tmp_path, "detect").train
    first = open_annotations(tmp_path, "detect", val_share=0.3, seed=1)
    paths = [image.path for image in first.train.images + first.val.images]
    assert sorted(paths) == sorted(image.path for image in whole.images)
    assert len(first.val) == 1
    again = open_annotations(tmp_path, "detect", val_share=0.3, seed=1)
    assert [image.path for image in again.val.images] == [image.path for image in first.val.images]
    with pytest.raises(ValueError, match=r"--val-share: got 0\.9, needs less"):
        open_annotations(tmp_path, "detect", val_share=0.9)
