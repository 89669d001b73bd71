"""The shipped detector and segmentor are as good as docs/demonstrators-dense.md says.

`pytest -rP tests/dense_evaluation/test_dense_demonstrators.py` prints the numbers measured.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import transnext_models
from requirements import needs
from transnext_models import create_model
from transnext_models.checkpoints.hub import packaged_weights
from transnext_models.dense.published import DEMONSTRATORS
from transnext_models.dense.run_lengths import RunLengths
from transnext_models.dense_data.digit_scenes import CLASSES, SIZE, Scene, draw_scenes
from transnext_models.dense_data.records import AnnotatedImage, AnnotatedSet, Objects
from transnext_models.dense_evaluation.average_precision import average_precision
from transnext_models.dense_evaluation.mean_iou import MeanIoU, count_pixels, mean_iou
from transnext_models.detecting import Detected, Detector
from transnext_models.segmenting import Segmentor

SAMPLES = Path(transnext_models.__file__).parent / "assets" / "scenes"
SEED = 1  # scenes that no training validated on

pytestmark = needs("mlxtend", "scikit-learn", "scikit-image", "pycocotools", "torchvision")


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return list(draw_scenes("val", 40, SEED))


@pytest.fixture(scope="module")
def many_scenes() -> list[Scene]:
    return list(draw_scenes("val", 300, SEED))


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load(device="cpu")


@pytest.fixture(scope="module")
def segmentor() -> Segmentor:
    return Segmentor.load(device="cpu")


def _annotated(scenes: list[Scene]) -> AnnotatedSet:
    images = []
    for number, scene in enumerate(scenes):
        shapes = [RunLengths.of(mask) for mask in scene.masks]
        areas = [float(mask.sum()) for mask in scene.masks]
        objects = Objects.of(
            [_box(mask) for mask in scene.masks], scene.labels, areas=areas, shapes=shapes
        )
        images.append(AnnotatedImage(number, f"scene {number}", SIZE, objects))
    return AnnotatedSet(images, CLASSES, tuple(range(1, 11)), "scenes")


def _box(mask: np.ndarray) -> tuple[int, ...]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def _precision(detector: Detector, scenes: list[Scene]) -> tuple[float, float]:
    """Print and return the average precision of boxes and of masks."""
    found = []
    for number, result in enumerate(detector.detect([s.image for s in scenes], threshold=0.0)):
        assert isinstance(result, Detected)
        found.append(dataclasses.replace(result.found, image_id=number))
    scores = {kind: average_precision(_annotated(scenes), found, kind) for kind in ("bbox", "segm")}
    for kind, score in scores.items():
        print(
            f"{kind}, {len(scenes)} scenes: AP {score.ap:.3f}, at 0.5 {score.ap50:.3f}, at 0.75 "
            f"{score.ap75:.3f}; small {score.small:.3f}, medium {score.medium:.3f}, large "
            f"{score.large:.3f}; {_by_class(CLASSES, score.per_class)}"
        )
    return scores["bbox"].ap, scores["segm"].ap


def _iou(segmentor: Segmentor, scenes: list[Scene]) -> MeanIoU:
    """Print and return the mean IoU."""
    counts = []
    for number, result in enumerate(segmentor.segment([s.image for s in scenes])):
        label_map = np.zeros(SIZE, int)
        for mask, label in zip(scenes[number].masks, scenes[number].labels, strict=True):
            label_map[mask > 0] = label + 1
        counts.append(count_pixels(number, result.labels, label_map, 11))
    score = mean_iou(counts)
    print(
        f"{len(scenes)} scenes: mIoU {score.miou:.3f}, pixels {score.aacc:.3f}; "
        f"{_by_class(segmentor.class_names, score.per_class_iou)}"
    )
    return score


def _by_class(names: tuple[str, ...] | list[str], values: tuple[float, ...]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in zip(names, values, strict=True))


@pytest.mark.parametrize("name", DEMONSTRATORS)
def test_weights_are_small_and_half_precision(name: str) -> None:
    file = packaged_weights(DEMONSTRATORS[name].file, name)
    assert file.stat().st_size <= 3_000_000
    with safe_open(file, framework="pt") as weights:
        kinds = {weights.get_tensor(key).dtype for key in weights.keys()}  # noqa: SIM118
    assert kinds == {torch.float16}


def test_names_of_classes() -> None:
    detector, segmentor = (create_model(name, pretrained=True) for name in DEMONSTRATORS)
    assert detector.class_names == list(CLASSES)
    assert segmentor.class_names == ["photograph", *CLASSES]


def test_held_out_objects(detector: Detector, scenes: list[Scene]) -> None:
    boxes, masks = _precision(detector, scenes)
    assert boxes >= 0.6
    assert masks >= 0.45


def test_held_out_pixels(segmentor: Segmentor, scenes: list[Scene]) -> None:
    assert _iou(segmentor, scenes).miou >= 0.65


@pytest.mark.slow
def test_many_held_out_pixels(segmentor: Segmentor, many_scenes: list[Scene]) -> None:
    assert _iou(segmentor, many_scenes).miou >= 0.67


@pytest.mark.slow
def test_many_held_out_objects(detector: Detector, many_scenes: list[Scene]) -> None:
    boxes, masks = _precision(detector, many_scenes)
    assert boxes >= 0.6
    assert masks >= 0.45


def test_samples(detector: Detector) -> None:
    """The scenes in the package are held out, and most of their digits are found."""
    files = sorted(SAMPLES.glob("*.jpg"))
    assert 5 <= len(files) <= 8
    assert sum(file.stat().st_size for file in files) < 300_000
    right = there = 0
    for scene, result in zip(draw_scenes("val", len(files)), detector.detect(files), strict=True):
        with Image.open(result.path) as image:
            assert np.abs(np.asarray(image, float) - scene.image).mean() < 6
        there += len(scene.labels)
        right += len({*scene.labels} & {item.index for item in result.objects})
    print(f"samples: {right} of {there} digits found")
    assert right >= 0.7 * there
