"""COCO's average precision, computed by pycocotools.

Source: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014, arXiv 1405.0312:
precision at 101 recalls, over IoU 0.5, 0.55 … 0.95 and classes; 100 detections an image, and 300
and 1000 for recall.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..dense.found_objects import FoundObjects
from ..dense.run_lengths import RunLengths
from ..dense_data.errors import AnnotationError
from ..dense_data.records import AnnotatedImage, AnnotatedSet, Objects
from ..dense_data.shapes import Polygons, Shape
from ..training.sources.requirements import needed
from .gathering import each_image_once

__all__ = ["MAX_DETECTIONS", "AveragePrecision", "average_precision"]

Kind = Literal["bbox", "segm"]

MAX_DETECTIONS = (100, 300, 1000)
"""FoundObjects of an image that count; average precision is at the first."""

_IOU_50, _IOU_75 = 0, 5
_AREAS = ("all", "small", "medium", "large")


@dataclass(frozen=True)
class AveragePrecision:
    """Scores from 0 to 1; NaN where there is no object.

    Attributes
    ----------
    ap, ap50, ap75 : float
        Mean over IoU 0.5 … 0.95, at 0.5 and at 0.75.
    small, medium, large : float
        Of objects under 32² pixels, up to 96², and over.
    recall : tuple[float, ...]
        Mean recall at `MAX_DETECTIONS`.
    per_class : tuple[float, ...]
        `ap` of each class.
    """

    ap: float
    ap50: float
    ap75: float
    small: float
    medium: float
    large: float
    recall: tuple[float, ...]
    per_class: tuple[float, ...]


def average_precision(
    annotated: AnnotatedSet, found: Sequence[FoundObjects], kind: Kind
) -> AveragePrecision:
    """Score detections against the objects of a set.

    Parameters
    ----------
    annotated : AnnotatedSet
        With objects; crowds neither count nor spoil what is found in them.
    found : Sequence[FoundObjects]
        One for each image, in any order.
    kind : {"bbox", "segm"}
        Whether boxes or masks are compared.

    Raises
    ------
    ValueError
        An image has no answer, or there is no mask to compare.
    RuntimeError
        pycocotools is not installed.
    """
    evaluation = needed("pycocotools.cocoeval", "dense", "average precision")
    in_order = each_image_once([found], [image.image_id for image in annotated.images])
    with contextlib.redirect_stdout(io.StringIO()):  # it prints whatever it does
        truth = _index([_truths(image, kind) for image in annotated.images], annotated)
        pairs = zip(annotated.images, in_order, strict=True)
        results = _index([_results(image, one, kind) for image, one in pairs], annotated)
        run = evaluation.COCOeval(truth, results, kind)
        run.params.maxDets = list(MAX_DETECTIONS)
        run.evaluate()
        run.accumulate()
    precision, recall = run.eval["precision"], run.eval["recall"]
    at_first = precision[..., 0]  # [IoU, recall, class, area]
    whole, small, medium, large = (_mean(at_first[..., area]) for area in range(len(_AREAS)))
    return AveragePrecision(
        whole,
        _mean(at_first[_IOU_50, :, :, 0]),
        _mean(at_first[_IOU_75, :, :, 0]),
        small,
        medium,
        large,
        tuple(_mean(recall[:, :, 0, most]) for most in range(len(MAX_DETECTIONS))),
        tuple(_mean(at_first[:, :, label, 0]) for label in range(annotated.num_classes)),
    )


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean of what is defined: -1 stands for a class without objects."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")


def _index(of_images: Sequence[list[dict[str, Any]]], annotated: AnnotatedSet) -> Any:
    """Return pycocotools' object of annotations or results of images in order.

    Images and objects are numbered from 1: a match with an object of id 0 would not count.
    """
    coco = needed("pycocotools.coco", "dense", "average precision").COCO()
    order = sorted(
        range(len(annotated)),
        key=lambda index: (
            isinstance(annotated.images[index].image_id, str),
            annotated.images[index].image_id,
        ),
    )
    entries: list[dict[str, Any]] = []
    for number, index in enumerate(order, 1):
        for entry in of_images[index]:
            entries.append({**entry, "image_id": number, "id": len(entries) + 1})
    coco.dataset = {
        "images": [_image(number, annotated.images[i]) for number, i in enumerate(order, 1)],
        "categories": [{"id": label} for label in range(annotated.num_classes)],
        "annotations": entries,
    }
    coco.createIndex()
    return coco


def _image(number: int, image: AnnotatedImage) -> dict[str, int]:
    height, width = image.size or (0, 0)
    return {"id": number, "height": height, "width": width}


def _truths(image: AnnotatedImage, kind: Kind) -> list[dict[str, Any]]:
    objects = image.objects or Objects.of([], [])
    truths = []
    for box, label, crowd, area, shape in zip(
        objects.boxes, objects.labels, objects.crowd, objects.areas, objects.shapes, strict=True
    ):
        truth = {
            "category_id": int(label),
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "area": float(area),
            "iscrowd": int(crowd),
        }
        if kind == "segm":
            if shape is None:
                raise AnnotationError(image.path, "", "has a box without a mask to compare with")
            truth["segmentation"] = _segmentation(shape)
        truths.append(truth)
    return truths


def _results(image: AnnotatedImage, found: FoundObjects, kind: Kind) -> list[dict[str, Any]]:
    if kind == "segm" and found.masks is None:
        raise ValueError("masks: got none, needs one for each box")
    results = []
    for index, (box, score) in enumerate(zip(found.boxes, found.scores, strict=True)):
        left, top, right, bottom = (float(side) for side in box)
        result: dict[str, Any] = {
            "category_id": int(found.labels[index]),
            "bbox": [left, top, right - left, bottom - top],
            "score": float(score),
            "area": (right - left) * (bottom - top),
            "iscrowd": 0,
        }
        if kind == "segm" and found.masks is not None:
            mask = found.masks[index]
            if image.size is not None and mask.size != image.size:
                raise ValueError(
                    f"masks: got {mask.size} for image {found.image_id}, needs {image.size}, the "
                    "size of the original image"
                )
            # Small, medium and large go by the mask where masks are compared.
            result |= {"segmentation": _segmentation(mask), "area": mask.area}
        results.append(result)
    return results


def _segmentation(shape: Shape) -> Any:
    if isinstance(shape, Polygons):
        return [part.tolist() for part in shape.parts]
    assert isinstance(shape, RunLengths)
    return {"size": list(shape.size), "counts": shape.packed().encode()}
