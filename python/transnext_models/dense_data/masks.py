"""Masks in image files: a label map for each image, or the instances of one.

Label maps hold classes; ADE20K's hold 0 for anything else. Instance maps hold a number for each
object, 0 for none; of which class it is says a label map of the same name, as Pascal VOC has them,
and without one there is a single class.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..dense.run_lengths import RunLengths
from .archived import names_in
from .checks import read_text
from .errors import AnnotationError
from .images_by_name import paired
from .label_files import read_indices
from .records import IGNORED, AnnotatedImage, AnnotatedSet, LabelFile, Objects
from .report import Report

__all__ = ["ADE20K_CLASSES", "mask_class_names", "read_instance_maps", "read_label_maps"]

ADE20K_CLASSES = 150
_MOST_BYTES = 1 << 20
_MOST_INSTANCES = 10_000
_NAME_FILES = ("classes.txt", "labels.txt", "objectInfo150.txt")
_ADE20K_NAMES = "objectInfo150.txt"


def mask_class_names(folder: Path) -> tuple[str, ...] | None:
    """Return the names in classes.txt (one a line) or ADE20K's objectInfo150.txt; None without."""
    there = names_in(str(folder))
    for name in _NAME_FILES:
        if name in there:
            text = read_text(folder / name, _MOST_BYTES)
            lines = [line for line in text.splitlines() if line.strip()]
            if name == _ADE20K_NAMES:
                return tuple(line.split("\t")[-1].split(",")[0].strip() for line in lines[1:])
            return tuple(line.strip() for line in lines)
    return None


def read_label_maps(
    images: Path,
    masks: Path,
    class_names: Sequence[str] | None = None,
    *,
    zero_is_other: bool = False,
    only: Sequence[str] | None = None,
) -> AnnotatedSet:
    """Pair images with their label maps.

    Parameters
    ----------
    images, masks : Path
        Folders whose files have the same names but for their suffixes.
    class_names : Sequence[str] | None
        Of the numbers from 0, or from 1 where `zero_is_other`. None has all files read for the
        largest number.
    zero_is_other : bool
        ADE20K's rule: 0 is no class.
    only : Sequence[str] | None
        The names, without suffix, of the split's images; None takes all.

    Raises
    ------
    AnnotationError
        A file has no other of its name, or cannot be read.
    """
    pairs = paired(images, masks, only)
    if not pairs:
        raise AnnotationError(images, "", "holds no images")
    if class_names is None:
        last = max(_largest(mask) for _, mask in pairs)
        class_names = [f"class {number}" for number in range(last + 1 - zero_is_other)]
    if not class_names:
        raise AnnotationError(masks, "", "has no class in any mask")
    found = [
        AnnotatedImage(number, str(image), None, label_file=LabelFile(str(mask), zero_is_other))
        for number, (image, mask) in enumerate(pairs, 1)
    ]
    return AnnotatedSet(found, tuple(class_names), tuple(range(len(class_names))), str(masks))


def read_instance_maps(
    images: Path,
    instances: Path,
    classes: Path | None = None,
    class_names: Sequence[str] | None = None,
) -> AnnotatedSet:
    """Read the objects of images from instance maps.

    Parameters
    ----------
    images, instances : Path
        Folders whose files have the same names but for their suffixes.
    classes : Path | None
        The folder of label maps that say what class an instance has: that of most of its pixels,
        from 1 on; 0 and 255 are none.
    class_names : Sequence[str] | None
        Of the classes from 1; None names them by number, or the single one ``object``.

    Raises
    ------
    AnnotationError
        A file has no other of its name, cannot be read, or is of another size than its label map.
    """
    report = Report()
    maps = dict(paired(images, classes)) if classes is not None else {}
    found, highest = [], 0
    for number, (image, file) in enumerate(paired(images, instances), 1):
        values = read_indices(file)
        labels = np.ones_like(values) if classes is None else read_indices(maps[image])
        if labels.shape != values.shape:
            raise AnnotationError(
                file, "", f"is {values.shape}, its label map {labels.shape} (height, width)"
            )
        objects = _objects(file, values, labels, report)
        highest = max(highest, *(objects.labels + 1), 0) if len(objects) else highest
        size = (values.shape[0], values.shape[1])
        found.append(AnnotatedImage(number, str(image), size, objects))
    if class_names is None:
        class_names = ["object"] if classes is None else [f"class {n + 1}" for n in range(highest)]
    if highest > len(class_names):
        raise AnnotationError(
            instances, "", f"got class {highest}, needs 1…{len(class_names)}, as there are names"
        )
    if not found or not highest:
        raise AnnotationError(instances, "", "holds no instance")
    ids = tuple(range(1, len(class_names) + 1))
    return AnnotatedSet(found, tuple(class_names), ids, str(instances), report)


def _objects(
    file: Path, values: NDArray[np.int64], labels: NDArray[np.int64], report: Report
) -> Objects:
    # In 8 bits 255 stands for the edges of objects, as in Pascal VOC; in 16 it is one of many.
    edges = IGNORED if values.max(initial=0) <= IGNORED else 0
    numbers = [int(number) for number in np.unique(values) if number not in (0, edges)]
    if len(numbers) > _MOST_INSTANCES:
        raise AnnotationError(file, "", f"has {len(numbers):,} instances: no instance map?")
    boxes, classes, areas = [], [], []
    shapes = []
    for number in numbers:
        mask = values == number
        inside = labels[mask]
        counts = np.bincount(inside[(inside > 0) & (inside != IGNORED)])
        if not counts.size:
            report.note("instances have no class: left out", f"{file}: instance {number}")
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        classes.append(int(counts.argmax()) - 1)
        areas.append(float(mask.sum()))
        shapes.append(RunLengths.of(mask.astype(np.uint8)))
    return Objects.of(boxes, classes, areas=areas, shapes=shapes)


def _largest(mask: Path) -> int:
    values = read_indices(mask)
    return int(values[values != IGNORED].max(initial=0))
