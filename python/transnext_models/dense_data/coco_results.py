"""What detectors found, in COCO's form of results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..dense.found_objects import FoundObjects
from ..training.durable import written_durably

__all__ = ["coco_results", "write_coco_results"]

_DIGITS = 3  # after the point, of boxes in pixels
_SCORE_DIGITS = 9  # in all: a float32 is read back as it is


def coco_results(found: FoundObjects, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return COCO's results of an image: x, y, width, height, and categories as the file has them.

    Parameters
    ----------
    found : FoundObjects
        What was found.
    category_ids : Sequence[int]
        The id of each label.
    """
    results = []
    for index, (box, score) in enumerate(zip(found.boxes, found.scores, strict=True)):
        left, top, right, bottom = (float(side) for side in box)
        result: dict[str, Any] = {
            "image_id": found.image_id,
            "category_id": category_ids[int(found.labels[index])],
            "bbox": [left, top, right - left, bottom - top],
            "score": float(score),
        }
        if found.masks is not None:
            mask = found.masks[index]
            result["segmentation"] = {"size": list(mask.size), "counts": mask.packed()}
        results.append(result)
    return results


def write_coco_results(
    file: Path, found: Iterable[FoundObjects], category_ids: Sequence[int]
) -> None:
    """Write COCO's results file, a line for each object; boxes to a thousandth of a pixel."""
    with written_durably(file) as target:
        target.write(b"[")
        before = b"\n"
        for objects in found:
            for result in coco_results(objects, category_ids):
                result["bbox"] = [round(side, _DIGITS) for side in result["bbox"]]
                result["score"] = float(f"{result['score']:.{_SCORE_DIGITS}g}")
                target.write(before + json.dumps(result, allow_nan=False).encode())
                before = b",\n"
        target.write(b"\n]\n")
