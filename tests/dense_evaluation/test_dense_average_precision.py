"""Average precision: of perfect answers, and of wrong ones counted by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dense_evaluation.scored_sets import (
    annotated_set,
    detections,
    objects_of,
    perfect,
    random_set,
)
from transnext_models.dense.run_lengths import RunLengths, run_lengths_of
from transnext_models.dense_data.coco_results import coco_results, write_coco_results
from transnext_models.dense_data.errors import AnnotationError
from transnext_models.dense_data.records import Objects
from transnext_models.dense_evaluation.average_precision import average_precision
from transnext_models.dense_evaluation.gathering import each_image_once

KINDS = pytest.mark.parametrize("kind", ["bbox", "segm"])


@KINDS
def test_perfect_answers(kind: str) -> None:
    annotated = random_set()
    score = average_precision(annotated, perfect(annotated), kind)
    assert (score.ap, score.ap50, score.ap75) == pytest.approx((1, 1, 1))
    assert score.per_class == pytest.approx((1, 1, 1))
    assert score.recall == (1, 1, 1)


@KINDS
def test_no_answers(kind: str) -> None:
    annotated = random_set()
    score = average_precision(
        annotated, [detections(image.image_id) for image in annotated.images], kind
    )
    assert score.ap == 0


@KINDS
def test_precision_counted_by_hand(kind: str) -> None:
    """Two objects of one class; the surest answer is wrong, the second right, one is missed.

    At recalls up to 0.5, 51 of the 101, precision is 1/2; beyond, 0.
    """
    annotated = annotated_set(objects_of((0, 0, 0, 20, 20), (0, 50, 50, 80, 80)), category_ids=(4,))
    found = [detections(1, (0, 0.9, 90, 10, 110, 30), (0, 0.8, 0, 0, 20, 20))]
    score = average_precision(annotated, found, kind)
    assert score.ap == pytest.approx(51 / 101 * 0.5)
    assert score.recall[0] == pytest.approx(0.5)


@KINDS
def test_overlap_counted_by_hand(kind: str) -> None:
    """Boxes of 20 by 10 and of 14 by 10 in it: IoU 0.7, right at 0.5 … 0.7, five of ten."""
    annotated = annotated_set(objects_of((0, 0, 0, 20, 10)), category_ids=(1,))
    score = average_precision(annotated, [detections(1, (0, 0.5, 0, 0, 14, 10))], kind)
    assert score.ap == pytest.approx(0.5)
    assert (score.ap50, score.ap75) == pytest.approx((1, 0))


def test_a_class_that_is_wrong_or_absent() -> None:
    annotated = annotated_set(objects_of((0, 0, 0, 20, 20), (1, 50, 50, 80, 80)))
    found = [detections(1, (0, 0.9, 0, 0, 20, 20), (2, 0.9, 50, 50, 80, 80))]
    score = average_precision(annotated, found, "bbox")
    assert score.per_class[:2] == pytest.approx((1, 0))
    assert math.isnan(score.per_class[2])  # without objects it does not count
    assert score.ap == pytest.approx(0.5)


def test_a_hundred_answers_of_an_image_count() -> None:
    """The right one is the 101st: not in average precision, but in recall at 300."""
    annotated = annotated_set(objects_of((0, 0, 0, 20, 20)), category_ids=(1,))
    wrong = [(0, 0.9, 50, 50, 60, 60)] * 100
    score = average_precision(annotated, [detections(1, *wrong, (0, 0.1, 0, 0, 20, 20))], "bbox")
    assert score.ap == 0
    assert score.recall == (0, 1, 1)


def test_crowds_neither_count_nor_spoil() -> None:
    crowd = objects_of((0, 0, 0, 20, 20), (0, 40, 40, 110, 90), crowd=[False, True])
    annotated = annotated_set(crowd, category_ids=(1,))
    found = [detections(1, (0, 0.9, 50, 50, 60, 60), (0, 0.8, 0, 0, 20, 20))]
    assert average_precision(annotated, found, "bbox").ap == pytest.approx(1)


def test_the_first_object_counts_like_the_others() -> None:
    """pycocotools takes a match with an object of id 0 for none."""
    annotated = annotated_set(objects_of((0, 0, 0, 20, 20)), category_ids=(0,))
    assert average_precision(annotated, perfect(annotated), "bbox").ap == pytest.approx(1)


def test_sizes_go_by_the_mask_where_masks_are_compared() -> None:
    mask = np.zeros((100, 120), np.uint8)
    mask[:10, :10] = mask[50:60, 50:60] = 1  # 200 pixels in a box of 3600
    shape = RunLengths.of(mask)
    objects = Objects.of([(0, 0, 60, 60)], [0], areas=[200], shapes=[shape])
    annotated = annotated_set(objects, category_ids=(1,))
    found = replace(detections(1, (0, 0.9, 0, 0, 60, 60)), masks=(shape,))
    score = average_precision(annotated, [found], "segm")
    assert score.small == pytest.approx(1)
    assert math.isnan(score.medium)


def test_images_are_counted_once_and_none_is_missing() -> None:
    annotated = random_set()
    found = perfect(annotated)
    ids = [image.image_id for image in annotated.images]
    gathered = each_image_once([found[0::2], found[1::2] + found[:1]], ids)
    assert [one.image_id for one in gathered] == ids
    assert average_precision(annotated, gathered[::-1], "bbox").ap == pytest.approx(1)
    with pytest.raises(ValueError, match="predictions: miss 1 of the set's images, 6 the first"):
        average_precision(annotated, found[:-1], "bbox")
    with pytest.raises(ValueError, match="have unknown 1 of the set's images, 77"):
        each_image_once([[*found, detections(77)]], ids)


def test_names_of_images_may_be_text() -> None:
    annotated = random_set()
    images = [replace(image, image_id=f"n{image.image_id}") for image in annotated.images]
    renamed = replace(annotated, images=images)
    assert average_precision(renamed, perfect(renamed), "bbox").ap == pytest.approx(1)


def test_results_have_the_file_s_ids_and_x_y_width_height(tmp_path: Path) -> None:
    annotated = annotated_set(objects_of((1, 5, 10, 25, 40)), ids=[139])
    found = perfect(annotated)
    (result,) = coco_results(found[0], annotated.category_ids)
    assert result["image_id"] == 139
    assert result["category_id"] == 5
    assert result["bbox"] == [5, 10, 20, 30]
    assert run_lengths_of(result["segmentation"], (100, 120)).bitmap().sum() == 600
    file = tmp_path / "results.json"
    write_coco_results(file, found, annotated.category_ids)
    assert json.loads(file.read_text()) == [result]
    write_coco_results(file, [], annotated.category_ids)
    assert json.loads(file.read_text()) == []


def test_pycocotools_reads_our_results_and_agrees(tmp_path: Path) -> None:
    """The whole way round by files, with its own defaults."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    annotated = random_set(3)
    generator = np.random.default_rng(0)
    noisy = [
        replace(
            one,
            boxes=one.boxes + generator.normal(0, 3, one.boxes.shape).round(2),
            scores=generator.random(len(one.scores)).round(4),
        )
        for one in perfect(annotated)
    ]
    entries = []
    for image in annotated.images:
        for box, label in zip(image.objects.boxes, image.objects.labels, strict=True):
            left, top, right, bottom = box.tolist()
            side = {"bbox": [left, top, right - left, bottom - top], "iscrowd": 0}
            area = (right - left) * (bottom - top)
            entry = {"image_id": image.image_id, "id": len(entries) + 1, "area": area, **side}
            entries.append({**entry, "category_id": annotated.category_ids[label]})
    document = {
        "images": [{"id": image.image_id} for image in annotated.images],
        "categories": [{"id": category} for category in annotated.category_ids],
        "annotations": entries,
    }
    truth, results = tmp_path / "truth.json", tmp_path / "results.json"
    truth.write_text(json.dumps(document))
    write_coco_results(results, noisy, annotated.category_ids)
    loaded = coco.COCO(str(truth))
    without_masks = [
        {name: value for name, value in result.items() if name != "segmentation"}
        for result in json.loads(results.read_text())
    ]
    run = evaluation.COCOeval(loaded, loaded.loadRes(without_masks), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    score = average_precision(annotated, noisy, "bbox")
    assert 0.1 < score.ap < 0.9
    ours = (score.ap, score.ap50, score.ap75, score.small, score.medium)
    assert ours == pytest.approx(run.stats[:5], abs=1e-9)


def test_masks_are_needed_to_compare_masks() -> None:
    annotated = random_set()
    without = [replace(one, masks=None) for one in perfect(annotated)]
    with pytest.raises(ValueError, match="masks: got none"):
        average_precision(annotated, without, "segm")
    boxes = annotated_set(Objects.of([(0, 0, 9, 9)], [0]))
    with pytest.raises(AnnotationError, match=r"1\.jpg: has a box without a mask"):
        average_precision(boxes, [detections(1)], "segm")


def test_masks_are_of_the_original_size() -> None:
    annotated = annotated_set(objects_of((0, 0, 0, 9, 9)))
    small = RunLengths.of(np.ones((50, 60), np.uint8))
    found = replace(detections(1, (0, 0.9, 0, 0, 9, 9)), masks=(small,))
    with pytest.raises(ValueError, match=r"masks: got \(50, 60\) for image 1, needs \(100, 120\)"):
        average_precision(annotated, [found], "segm")


def test_detections_are_checked() -> None:
    good = detections(1, (0, 0.9, 0, 0, 9, 9))
    with pytest.raises(ValueError, match="boxes, scores: got what is not finite for image 1"):
        replace(good, scores=np.array([np.nan]))
    with pytest.raises(ValueError, match=r"boxes: got \(1, 4\) and 1 labels"):
        replace(good, scores=np.array([0.5, 0.6]))
    with pytest.raises(ValueError, match="masks: got 0, needs 1"):
        replace(good, masks=())
