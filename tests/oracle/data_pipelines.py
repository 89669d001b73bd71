"""Compare the data pipelines with OpenMMLab's: tests/oracle/data_pipelines.py; see CONTRIBUTING.

Ours draw; theirs get the same numbers, through NumPy's functions, and must make the same pixels,
boxes, masks and labels. Then theirs draw for themselves, and what comes out must be distributed
alike: sizes and mean grey values, by the two-sample test of Kolmogorov and Smirnov.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
from scipy.stats import ks_2samp

from oracle.openmmlab import report, stand_in_for_compiled_operators

stand_in_for_compiled_operators()

import mmdet.datasets.transforms  # noqa: E402, F401
import mmseg.datasets.transforms  # noqa: E402, F401
from mmdet.registry import TRANSFORMS as DETECTION  # noqa: E402
from mmdet.structures.bbox import HorizontalBoxes  # noqa: E402
from mmdet.structures.mask import BitmapMasks  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmseg.registry import TRANSFORMS as SEGMENTATION  # noqa: E402

from transnext_models.dense_data.draws import Draws  # noqa: E402
from transnext_models.dense_data.pipelines import METHODS, mask2former_sides  # noqa: E402
from transnext_models.dense_data.sample import DenseSample  # noqa: E402

SAMPLES = 8  # of each method with the same draws
DISTRIBUTION = 60  # of each side with draws of its own
LEAST_P = 1e-4


def choice(*sides: int, long: int) -> dict[str, Any]:
    """Return the step that fits an image into a short side of several."""
    return {
        "type": "RandomChoiceResize", "keep_ratio": True,
        "scales": [(long, side) for side in sides],
    }  # fmt: skip


def published() -> dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Return OpenMMLab's steps of training and test by method."""
    fit = {"type": "Resize", "keep_ratio": True}
    flip = {"type": "RandomFlip", "prob": 0.5}
    again = choice(*range(480, 801, 32), long=1333)
    crop = {
        "type": "RandomCrop", "crop_type": "absolute_range", "crop_size": (384, 600),
        "allow_negative_crop": True,
    }  # fmt: skip
    dino = [[again], [choice(400, 500, 600, long=4200), crop, again]]
    balanced = {"type": "RandomCrop", "crop_size": (512, 512), "cat_max_ratio": 0.75}
    rest = [balanced, flip, {"type": "PhotoMetricDistortion"}]
    scaled = {
        "type": "RandomResize", "scale": (2048, 512), "ratio_range": (0.5, 2.0),
        "keep_ratio": True,
    }  # fmt: skip
    shortest = {
        "type": "RandomChoiceResize", "scales": list(mask2former_sides()),
        "resize_type": "ResizeShortestEdge", "max_size": 2048,
    }  # fmt: skip
    detection, segmentation = [fit | {"scale": (1333, 800)}], [fit | {"scale": (2048, 512)}]
    return {
        "maskrcnn": ([*detection, flip], detection),
        "dino": ([flip, {"type": "RandomChoice", "transforms": dino}], detection),
        "upernet": ([scaled, *rest], segmentation),
        "mask2former": ([shortest, *rest], segmentation),
    }


def built(method: str, steps: list[dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return their steps as one function."""
    detects = method in ("maskrcnn", "dino")
    init_default_scope("mmdet" if detects else "mmseg")
    registry = DETECTION if detects else SEGMENTATION
    transforms = [registry.build(step) for step in steps]

    def run(results: dict[str, Any]) -> dict[str, Any]:
        for transform in transforms:
            results = transform(results)
        return results

    return run


def made(method: str, seed: int) -> DenseSample:
    """Return a smooth, coloured image with boxes and masks, or labels."""
    generator = np.random.default_rng(seed)
    height, width = (int(side) for side in generator.integers(90, 260, 2))
    coarse = generator.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3))
    image = np.kron(coarse, np.ones((6, 6, 1)))[:height, :width]
    image = (image + generator.integers(0, 30, image.shape)).clip(0, 255).astype(np.uint8)
    if method in ("upernet", "mask2former"):
        labels = np.kron(generator.integers(0, 4, (3, 3)), np.ones((90, 90)))[:height, :width]
        return DenseSample(image, seed, (height, width), label_map=labels.astype(np.uint8))
    corner = generator.uniform(0, 0.5, (3, 2))
    edges = np.concatenate([corner, corner + generator.uniform(0.1, 0.5, (3, 2))], 1)
    boxes = (edges * np.array([width, height] * 2)).astype(np.float32)
    masks = np.zeros((3, height, width), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top:bottom, left:right] = 1
    labels = np.arange(3)
    return DenseSample(image, seed, (height, width), boxes, labels, masks)


def results_of(sample: DenseSample) -> dict[str, Any]:
    """Return a sample as their loading steps leave it: BGR, and dictionaries."""
    results: dict[str, Any] = {
        "img": np.ascontiguousarray(sample.image[..., ::-1]),
        "img_shape": sample.size,
        "ori_shape": sample.size,
    }
    if sample.label_map is not None:
        return results | {"gt_seg_map": sample.label_map.copy(), "seg_fields": ["gt_seg_map"]}
    if sample.boxes is None:
        return results
    assert sample.labels is not None
    assert sample.masks is not None
    return results | {
        "gt_bboxes": HorizontalBoxes(sample.boxes.copy()),
        "gt_bboxes_labels": sample.labels.copy(),
        "gt_ignore_flags": np.zeros(len(sample.labels), bool),
        "gt_masks": BitmapMasks(sample.masks.copy(), *sample.size),
    }


class SameDraws(ExitStack):
    """NumPy's global functions give what ours drew, in that order."""

    def __init__(self, taken: list[float]) -> None:
        super().__init__()
        self.rest: Iterator[float] = iter(taken)
        for name in ("randint", "uniform", "random_sample", "choice"):
            self.enter_context(patch.object(np.random, name, getattr(self, name)))

    def randint(self, low: int, high: int | None = None) -> int:
        value = int(next(self.rest))
        assert (0 if high is None else low) <= value < (low if high is None else high)
        return value

    def uniform(self, low: float, high: float) -> float:
        value = next(self.rest)
        assert low <= value < high
        return value

    def random_sample(self) -> float:
        """Return what makes the factor on the scale that ours drew."""
        return (next(self.rest) - 0.5) / 1.5

    def choice(self, options: Any, p: Any) -> Any:
        """Return the step with the number that ours drew; a direction where ours flips."""
        value = int(next(self.rest))
        if len(options) == 2 and options[-1] is None:
            assert list(p) == [0.5, 0.5]
            return options[0] if value else None
        assert p is None
        return options[value]


def compare(method: str, *, training: bool) -> bool:
    """Compare samples with the same draws: grey values, boxes in pixels, masks and labels."""
    ours = METHODS[method].training if training else METHODS[method].test
    theirs = built(method, published()[method][0 if training else 1])
    grey = boxes = others = 0.0
    for seed in range(SAMPLES if training else 2):
        sample = made(method, seed)
        draws = Draws(np.random.default_rng(seed))
        found = ours(sample, draws)
        with SameDraws(draws.taken) as same:
            expected = theirs(results_of(sample))
            assert next(same.rest, None) is None, "theirs drew less"
        pixels = expected["img"][..., ::-1].astype(int)
        assert found.image.shape == pixels.shape, (found.image.shape, pixels.shape)
        grey = max(grey, np.abs(found.image - pixels).max())
        if found.label_map is not None:
            others = max(others, (found.label_map != expected["gt_seg_map"]).mean())
            continue
        wanted = expected["gt_bboxes"].numpy()
        assert found.boxes is not None
        assert found.masks is not None
        assert found.boxes.shape == wanted.shape, (found.boxes.shape, wanted.shape)
        assert list(found.labels) == list(expected["gt_bboxes_labels"])
        if len(wanted):
            boxes = max(boxes, np.abs(found.boxes - wanted).max())
            others = max(others, (found.masks != expected["gt_masks"].masks).mean())
    what = f"{method}, {'training' if training else 'test'}"
    fine = report(f"{what}: grey values", grey, 1)
    if method in ("maskrcnn", "dino"):
        fine &= report(f"{what}: boxes in pixels", boxes, 1e-3)
    return fine & report(f"{what}: masks or labels, share", others, 0)


def numbers_of(image: np.ndarray) -> tuple[float, ...]:
    """Return height, width, mean of all grey values and of those at the left."""
    height, width = image.shape[:2]
    return height, width, image.mean(), image[:, : width // 2].mean()


def compare_distributions(method: str) -> bool:
    """Compare what comes out where both draw for themselves, from one image."""
    ours, theirs = METHODS[method].training, built(method, published()[method][0])
    sample = replace(made(method, 1), boxes=None, labels=None, masks=None)
    generator = np.random.default_rng(0)
    np.random.seed(0)  # noqa: NPY002 - theirs draw from NumPy's global numbers
    found, expected = [], []
    for _ in range(DISTRIBUTION):
        found.append(numbers_of(ours(sample, Draws(generator)).image))
        expected.append(numbers_of(theirs(results_of(sample))["img"]))
    values = [
        ks_2samp(x, y).pvalue for x, y in zip(np.array(found).T, np.array(expected).T, strict=True)
    ]
    least = min(values)
    fine = bool(least >= LEAST_P)
    print(f"{method + ', distributions: least p':44s} {least:8.1e}   {'ok' if fine else 'differ'}")
    return fine


def main() -> int:
    """Compare the methods on the command line, or all; return the exit code."""
    fine = True
    for method in sys.argv[1:] or published():
        for training in (True, False):
            fine &= compare(method, training=training)
        fine &= compare_distributions(method)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
