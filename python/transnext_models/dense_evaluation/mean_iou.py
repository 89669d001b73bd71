"""Intersection over union of label maps: summed over a set, then the mean over classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dense_data.records import IGNORED

__all__ = ["MeanIoU", "PixelCounts", "count_pixels", "mean_iou"]


@dataclass(frozen=True, slots=True, eq=False)
class PixelCounts:
    """Pixels of one image by class, int64 [classes]; those of no class are left out.

    Attributes
    ----------
    image_id : int | str
        Of the annotated image.
    right, predicted, labelled : int64 [classes]
        Predicted as what they are, predicted so, and labelled so.
    """

    image_id: int | str
    right: NDArray[np.int64]
    predicted: NDArray[np.int64]
    labelled: NDArray[np.int64]


@dataclass(frozen=True)
class MeanIoU:
    """Scores from 0 to 1.

    Attributes
    ----------
    miou, macc : float
        Mean over classes of IoU, and of the share of a class's pixels that is found; over those
        classes that occur.
    aacc : float
        The share of all pixels that is right.
    per_class_iou, per_class_accuracy : tuple[float, ...]
        NaN for a class that neither occurs nor is predicted.
    """

    miou: float
    macc: float
    aacc: float
    per_class_iou: tuple[float, ...]
    per_class_accuracy: tuple[float, ...]


def count_pixels(
    image_id: int | str, prediction: NDArray[Any], labels: NDArray[Any], num_classes: int
) -> PixelCounts:
    """Count the pixels of an image at the size of its labels.

    Parameters
    ----------
    image_id : int | str
        Which image.
    prediction, labels : integer [h, w]
        Classes; 255 in `labels` is none.
    num_classes : int
        Of the set.

    Raises
    ------
    ValueError
        They differ in size, or have a class that the set has not.
    """
    if prediction.shape != labels.shape:
        raise ValueError(
            f"prediction: got {prediction.shape} for image {image_id}, needs {labels.shape}, the "
            "size of its labels"
        )
    counted = labels != IGNORED
    chosen, true = prediction[counted].astype(np.int64), labels[counted].astype(np.int64)
    for name, values in (("prediction", chosen), ("labels", true)):
        if values.size and (values.min() < 0 or values.max() >= num_classes):
            raise ValueError(
                f"{name}: got class {values.max()} for image {image_id}, needs 0…{num_classes - 1}"
            )

    def histogram(values: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(values, minlength=num_classes).astype(np.int64)

    right = histogram(true[chosen == true])
    return PixelCounts(image_id, right, histogram(chosen), histogram(true))


def mean_iou(counts: Iterable[PixelCounts]) -> MeanIoU:
    """Sum up the images of a set; from several processes by `gathering.each_image_once`.

    Raises
    ------
    ValueError
        There is no image.
    """
    images = list(counts)
    if not images:
        raise ValueError("counts: got none, needs those of an image at least")
    right, predicted, labelled = (
        np.sum([getattr(image, name) for image in images], 0)
        for name in ("right", "predicted", "labelled")
    )
    iou = _ratio(right, predicted + labelled - right)
    accuracy = _ratio(right, labelled)
    return MeanIoU(
        _mean(iou),
        _mean(accuracy),
        float(_ratio(right.sum()[None], labelled.sum()[None])[0]),
        tuple(iou.tolist()),
        tuple(accuracy.tolist()),
    )


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
