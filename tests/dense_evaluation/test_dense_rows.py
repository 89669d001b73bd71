"""Rows of detection and segmentation: published numbers beside, in the three files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from dense_evaluation.scored_sets import perfect, random_set
from transnext_models.dense.published import METHODS
from transnext_models.dense_evaluation.average_precision import average_precision
from transnext_models.dense_evaluation.mean_iou import count_pixels, mean_iou
from transnext_models.dense_evaluation.published import MODES, PUBLISHED, published_score
from transnext_models.dense_evaluation.rows import DENSE, dense_row
from transnext_models.evaluation.results import Results


def test_published_numbers() -> None:
    assert len(PUBLISHED) == 6 + 4 + 9 + 3
    assert published_score("maskrcnn_transnext_base.coco", "mask AP", "coco") == 45.9
    assert published_score("dino_4scale_transnext_tiny", "box AP", "coco") == 55.1
    mode = "multi_scale_extrapolated"
    assert published_score("upernet_transnext_small", "mIoU", "ade20k", mode) == 52.8
    assert published_score("mask2former_transnext_base", "mIoU", "ade20k") == 54.7
    assert published_score("mask2former_transnext_base", "mIoU", "ade20k", mode) is None
    assert published_score("maskrcnn_transnext_base", "box AP", "my own") is None
    assert published_score("maskrcnn_transnext_pico", "box AP", "coco") is None


def test_the_readme_has_every_published_number_with_its_command() -> None:
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
    shown = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = cells[0].strip("`")
        if name.partition("_transnext")[0] not in METHODS or len(cells) < 5:
            continue
        task = METHODS[name.partition("_transnext")[0]].task
        assert cells[-1].startswith(f"`transnext evaluate {task} {name} --data DIR")
        metrics = (
            [("box AP", "single"), ("mask AP", "single")]
            if task == "detect"
            else [("mIoU", mode) for mode in MODES]
        )
        for (metric, mode), cell in zip(metrics, cells[2:-1], strict=True):
            if cell != "–":
                shown[name, metric, mode] = float(cell)
    assert shown == dict(PUBLISHED)


def test_rows_of_both_tasks_in_three_files(tmp_path: Path) -> None:
    annotated = random_set()
    precision = average_precision(annotated, perfect(annotated), "bbox")
    labels = np.zeros((2, 2), int)
    iou = mean_iou([count_pixels(0, labels, labels, 2)])
    results = Results(tmp_path / "dense.csv", DENSE)
    names = annotated.class_names
    common = {"seconds": 2.0, "class_names": names, "weights_sha256": "ab" * 32}
    results.add(
        dense_row(
            *("maskrcnn_transnext_tiny", "box AP", precision), image_set="coco", images=6, **common
        )
    )
    row = dense_row(
        *("upernet_transnext_tiny", "mIoU", iou),
        image_set="my own",
        images=1,
        seconds=1.0,
        class_names=("same", "same"),
    )
    results.add(row)
    results.add(row)  # of the same measurement: in its place
    with (tmp_path / "dense.csv").open(newline="") as lines:
        first, second = csv.DictReader(lines)
    assert (first["value"], first["published"], first["difference"]) == ("100.0", "49.9", "50.1")
    assert (second["value"], second["published"], second["images"]) == ("100.0", "", "1")
    stored = json.loads((tmp_path / "dense.json").read_text())["rows"]
    assert stored[0]["details"]["recall"] == {"100": 100, "300": 100, "1000": 100}
    assert stored[1]["details"]["per_class"][1] == {"class": "same", "value": None}
    assert "| box AP | 100.00 | 49.9 | +50.10 |" in (tmp_path / "dense.md").read_text()
    again = Results(tmp_path / "dense.csv", DENSE)
    assert again.has(row)
    with pytest.raises(ValueError, match="is none of an evaluation"):
        Results(tmp_path / "dense.csv")
