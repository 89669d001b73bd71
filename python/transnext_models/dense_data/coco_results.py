"""What detectors found, in COCO's form of results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ..dense.found_objects import FoundObjects
from ..training.durable import written_durably

__all__ = ["CocoResults", "coco_results", "image_numbers", "write_coco_results"]

_DIGITS = 3  # after the point, of boxes in pixels
_SCORE_DIGITS = 9  # in all: a float32 is read back as it is
_LONGEST_ID = 15  # digits, which any reader of JSON keeps


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
    """Write COCO's results file; see `CocoResults`."""
    with CocoResults.written(file, category_ids) as results:
        for objects in found:
            results.add(objects)


class CocoResults:
    """COCO's results file, a line for each object; boxes to a thousandth of a pixel."""

    def __init__(self, target: BinaryIO, category_ids: Sequence[int]) -> None:
        self._target, self._category_ids = target, category_ids
        self._before = b"\n"

    @classmethod
    @contextmanager
    def written(cls, file: Path, category_ids: Sequence[int]) -> Iterator[CocoResults]:
        """Yield what writes a file, which is there once all went well.

        Raises
        ------
        RunFileError
            It cannot be written.
        """
        with written_durably(file) as target:
            target.write(b"[")
            yield cls(target, category_ids)
            target.write(b"\n]\n")

    def add(self, found: FoundObjects, **more: Any) -> None:
        """Write the objects of an image, each with what else is to be said, such as its file."""
        for result in coco_results(found, self._category_ids):
            result["bbox"] = [round(side, _DIGITS) for side in result["bbox"]]
            result["score"] = float(f"{result['score']:.{_SCORE_DIGITS}g}")
            line = json.dumps({**result, **more}, allow_nan=False)
            self._target.write(self._before + line.encode())
            self._before = b",\n"


def image_numbers(paths: Sequence[Path]) -> list[int]:
    """Return the id of each image: the number that its name is, or its place from 1 on.

    COCO's images are named by their ids, ``000000000139.jpg``. Names are taken for ids where all
    are numbers, and different ones.
    """
    stems = [path.stem for path in paths]
    if all(stem.isascii() and stem.isdecimal() and len(stem) <= _LONGEST_ID for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(paths) + 1))
