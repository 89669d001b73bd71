"""What a detector found in an image, and COCO's form of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..dense_data.shapes import RunLengths
from ..training.durable import written_durably

__all__ = ["Detections", "coco_results", "each_image_once", "write_coco_results"]

_DIGITS = 3  # after the point, of boxes in pixels
_SCORE_DIGITS = 6


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The n objects found in one image, in pixels of the original image.

    Attributes
    ----------
    image_id : int | str
        Of the annotated image.
    boxes : float [n, 4]
        Left, top, right, bottom.
    scores : float [n]
        Higher is surer.
    labels : int [n]
        From 0.
    masks : tuple[RunLengths, ...] | None
        Of each.
    """

    image_id: int | str
    boxes: NDArray[Any]
    scores: NDArray[Any]
    labels: NDArray[Any]
    masks: tuple[RunLengths, ...] | None = None

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.boxes.shape != (count, 4) or len(self.labels) != count:
            raise ValueError(
                f"boxes: got {self.boxes.shape} and {len(self.labels)} labels, "
                f"needs ({count}, 4) and {count}, as there are scores"
            )
        if self.masks is not None and len(self.masks) != count:
            raise ValueError(f"masks: got {len(self.masks)}, needs {count}, as there are scores")
        if not (np.isfinite(self.boxes).all() and np.isfinite(self.scores).all()):
            raise ValueError(
                f"boxes, scores: got what is not finite for image {self.image_id}: "
                "damaged weights, or an overflow"
            )


def coco_results(detections: Detections, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return COCO's results of an image: x, y, width, height, and categories as the file has them.

    Parameters
    ----------
    detections : Detections
        What was found.
    category_ids : Sequence[int]
        The id of each label.
    """
    results = []
    for index, (box, score) in enumerate(zip(detections.boxes, detections.scores, strict=True)):
        left, top, right, bottom = (float(side) for side in box)
        result: dict[str, Any] = {
            "image_id": detections.image_id,
            "category_id": category_ids[int(detections.labels[index])],
            "bbox": [left, top, right - left, bottom - top],
            "score": float(score),
        }
        if detections.masks is not None:
            mask = detections.masks[index]
            result["segmentation"] = {"size": list(mask.size), "counts": mask.packed()}
        results.append(result)
    return results


def write_coco_results(
    file: Path, found: Iterable[Detections], category_ids: Sequence[int]
) -> None:
    """Write COCO's results file, a line for each object; boxes to a thousandth of a pixel."""
    with written_durably(file) as target:
        target.write(b"[")
        before = b"\n"
        for detections in found:
            for result in coco_results(detections, category_ids):
                result["bbox"] = [round(side, _DIGITS) for side in result["bbox"]]
                result["score"] = round(result["score"], _SCORE_DIGITS)
                target.write(before + json.dumps(result, allow_nan=False).encode())
                before = b",\n"
        target.write(b"\n]\n")


class _OfImage(Protocol):
    @property
    def image_id(self) -> int | str: ...


T = TypeVar("T", bound=_OfImage)


def each_image_once(parts: Iterable[Iterable[T]], image_ids: Sequence[int | str]) -> list[T]:
    """Return the answers of several processes in the order of the set, one for each image.

    Samplers that fill their last batches give some images to two processes.

    Parameters
    ----------
    parts : Iterable[Iterable[T]]
        Of each process, answers with their `image_id`.
    image_ids : Sequence[int | str]
        Of the set.

    Raises
    ------
    ValueError
        There is no answer to an image, or one to an image that is not in the set.
    """
    answers: dict[int | str, T] = {}
    for part in parts:
        for answer in part:
            answers.setdefault(answer.image_id, answer)
    missing = [image_id for image_id in image_ids if image_id not in answers]
    strange = answers.keys() - set(image_ids)
    if missing or strange:
        what, ids = ("miss", missing) if missing else ("have unknown", sorted(strange, key=str))
        raise ValueError(f"predictions: {what} {len(ids)} of the set's images, {ids[0]} the first")
    return [answers[image_id] for image_id in image_ids]
