"""Answers as files: COCO's results of a detector, label maps of a segmentor; written and read."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..dense.found_objects import FoundObjects
from ..dense.run_lengths import RunLengths, Size, run_lengths_of
from ..dense_data.checks import finite, read_text
from ..dense_data.errors import AnnotationError
from ..dense_data.label_files import read_labels
from ..dense_data.records import AnnotatedImage, AnnotatedSet, LabelFile
from ..training.durable import written_durably
from .mean_iou import PixelCounts, count_pixels

__all__ = ["label_map_file", "read_coco_results", "read_label_map", "write_label_map"]

_MOST_BYTES = 4 << 30
_BOX = "4 finite numbers x, y, w, h"


def read_coco_results(
    file: Path, annotated: AnnotatedSet, others: Collection[int | str] = ()
) -> list[FoundObjects]:
    """Read detections from a file of COCO's results; an image without an entry has none.

    Parameters
    ----------
    file : Path
        A JSON list of ``image_id``, ``category_id``, ``bbox``, ``score`` and, of all entries or of
        none, ``segmentation`` in run lengths.
    annotated : AnnotatedSet
        What they are of: the category ids are those of its annotations.
    others : Collection[int | str]
        Ids of images whose entries are passed over.

    Raises
    ------
    AnnotationError
        The file or an entry is broken, or of an image or class that the set has not; names it.
    """
    try:
        entries = json.loads(read_text(file, _MOST_BYTES))
    except (ValueError, RecursionError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(file, "", f"is no JSON ({error})") from error
    if not isinstance(entries, list):
        raise AnnotationError(file, "", f"got {type(entries).__name__}, needs a list of results")
    sizes = {image.image_id: image.size for image in annotated.images}
    labels = {category: label for label, category in enumerate(annotated.category_ids)}
    of_images = defaultdict(list)
    kinds = set()
    for index, entry in enumerate(entries):
        place = f"entry {index}"
        if not isinstance(entry, dict):
            raise AnnotationError(file, place, f"got {type(entry).__name__}, needs an object")
        image_id, category = entry.get("image_id"), entry.get("category_id")
        if not isinstance(image_id, int | str) or image_id not in sizes:
            if isinstance(image_id, int | str) and image_id in others:
                continue
            raise AnnotationError(file, place, f"image_id {image_id!r} is no image of the set")
        if not isinstance(category, int) or category not in labels:
            raise AnnotationError(file, place, f"category_id {category!r} is no class of the set")
        box, score, shape = entry.get("bbox"), entry.get("score"), entry.get("segmentation")
        if not isinstance(box, list) or len(box) != 4 or not finite(box):
            raise AnnotationError(file, place, f"bbox: got {str(box)[:60]}, needs {_BOX}")
        if not finite([score]):
            raise AnnotationError(file, place, f"score: got {score!r}, needs a finite number")
        kinds.add(shape is None)
        if len(kinds) > 1:
            raise AnnotationError(file, place, "segmentation: needs one in all entries or in none")
        mask = None if shape is None else _mask(file, place, shape, sizes[image_id])
        of_images[image_id].append((box, score, labels[category], mask))
    with_masks = kinds == {False}
    return [_found(image, of_images[image.image_id], with_masks) for image in annotated.images]


def _mask(file: Path, place: str, shape: Any, size: Size | None) -> RunLengths:
    try:
        if not isinstance(shape, dict):
            raise ValueError(f"got {type(shape).__name__}, needs run lengths")
        return run_lengths_of(shape, size or tuple(shape.get("size") or (0, 0)))
    except ValueError as error:
        raise AnnotationError(file, place, f"segmentation: {error}") from error


def _found(image: AnnotatedImage, entries: list[Any], with_masks: bool) -> FoundObjects:
    boxes = np.array([entry[0] for entry in entries], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return FoundObjects(
        image.image_id,
        boxes,
        np.array([entry[1] for entry in entries], np.float64),
        np.array([entry[2] for entry in entries], np.int64),
        tuple(entry[3] for entry in entries) if with_masks else None,
    )


def label_map_file(folder: Path, image: AnnotatedImage) -> Path:
    """Return where an image's label map is saved: a PNG of its name."""
    return folder / f"{Path(image.path).stem}.png"


def write_label_map(folder: Path, image: AnnotatedImage, labels: NDArray[np.uint8]) -> None:
    """Save a label map, its classes counted as in the set's own: ADE20K's from 1."""
    from_one = image.label_file is not None and image.label_file.zero_is_other
    data = io.BytesIO()
    Image.fromarray(labels + np.uint8(from_one)).save(data, "PNG")
    with written_durably(label_map_file(folder, image)) as file:
        file.write(data.getvalue())


def read_label_map(folder: Path, image: AnnotatedImage, num_classes: int) -> PixelCounts:
    """Count the pixels of a saved label map.

    Raises
    ------
    AnnotationError
        It is not there, is of another size than the image's own, or has a class that the set has
        not, or none, at a pixel; names the file.
    """
    assert image.label_file is not None
    file = label_map_file(folder, image)
    truth = read_labels(image.label_file, num_classes)
    found = read_labels(LabelFile(str(file), image.label_file.zero_is_other), num_classes)
    try:
        return count_pixels(image.image_id, found, truth, num_classes)
    except ValueError as error:
        raise AnnotationError(file, "", str(error)) from error
