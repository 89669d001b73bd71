"""YOLO's annotations: a text file for each image, and a data.yaml with the names of the classes.

A line is a class and a box (centre and sides) or a class and an outline, as shares of the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..dense.run_lengths import Size
from .checks import note_objects, read_text
from .errors import AnnotationError
from .images_by_name import images_by_stem
from .reading import upright_size
from .records import AnnotatedImage, AnnotatedSet, Objects
from .report import Report
from .shapes import Polygons, Shape, polygon_area

__all__ = ["read_yolo", "yolo_description", "yolo_images"]

_MOST_BYTES = 16 << 20
_BOX_NUMBERS, _LEAST_OUTLINE = 4, 6


def yolo_description(file: Path) -> Mapping[str, Any] | None:
    """Return what a YAML file says of a data set, None where it is about something else.

    Raises
    ------
    AnnotationError
        It is no YAML, or its names are none.
    """
    try:
        content = yaml.safe_load(read_text(file, _MOST_BYTES))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(file, "", f"no YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict) or "names" not in content or "train" not in content:
        return None
    names = content["names"]
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise AnnotationError(file, "names", f"needs the numbers 0…{len(names) - 1} as keys")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, str | int) for n in names):
        raise AnnotationError(file, "names", "needs a list of names")
    count = content.get("nc", len(names))
    if count != len(names):
        raise AnnotationError(file, "nc", f"got {count}, needs {len(names)}, as there are names")
    return {**content, "names": tuple(map(str, names))}


def yolo_images(file: Path, description: Mapping[str, Any], split: str) -> list[Path]:
    """Return the folders of images of a split: the YAML file's paths start from it, or from `path`.

    Raises
    ------
    AnnotationError
        The split is not there.
    """
    stated = description.get(split)
    if stated is None:
        raise AnnotationError(file, split, "is not there, needs the folder of its images")
    root = Path(str(description.get("path") or "."))
    folders = []
    for name in stated if isinstance(stated, list) else [stated]:
        # Exports are moved around: a path may start from the file, from `path`, or from above.
        starts = [file.parent / root, file.parent, file.parent.parent]
        tried = [start / str(name) for start in starts]
        tried.append(file.parent / str(name).lstrip("./"))
        folder = next((one for one in tried if one.is_dir()), None)
        if folder is None:
            raise AnnotationError(file, split, f"got {name}, needs a folder of images")
        folders.append(folder)
    return folders


def read_yolo(folders: list[Path], class_names: tuple[str, ...]) -> AnnotatedSet:
    """Read the images of folders, and their labels.

    The labels of ``…/images/…/name.jpg`` are in ``…/labels/…/name.txt``, or beside the image. An
    image without a file of labels has no objects, as in YOLO.

    Raises
    ------
    AnnotationError
        A line is broken, labels have no image, or no image has labels.
    ImageError
        An image cannot be read: its size is needed.
    """
    report = Report()
    found: list[AnnotatedImage] = []
    labelled = 0
    for folder in folders:
        images, labels = images_by_stem(folder), _labels_folder(folder)
        for file in sorted(labels.glob("*.txt")) if labels.is_dir() else []:
            if file.stem not in images and file.name not in ("classes.txt", "labels.txt"):
                report.note("files of labels have no image: left out", str(file))
        for stem, path in images.items():
            file = labels / f"{stem}.txt"
            size = upright_size(path)
            objects = Objects.of([], [])
            if file.is_file():
                labelled += 1
                objects = _objects(file, size, len(class_names), report)
            else:
                report.note("images have no file of labels: taken as empty", str(path))
            found.append(AnnotatedImage(len(found) + 1, str(path), size, objects))
    source = ", ".join(map(str, folders))
    if not labelled:
        raise AnnotationError(source, "", "no image has labels, needs labels/<name>.txt")
    return AnnotatedSet(found, class_names, tuple(range(len(class_names))), source, report)


def _labels_folder(images: Path) -> Path:
    parts = list(images.parts)
    for place in reversed(range(len(parts))):
        if parts[place] == "images":
            parts[place] = "labels"
            return Path(*parts)
    return images


def _objects(file: Path, size: Size, num_classes: int, report: Report) -> Objects:
    height, width = size
    boxes, labels, areas, places = [], [], [], []
    shapes: list[Shape | None] = []
    for number, line in enumerate(read_text(file, _MOST_BYTES).splitlines(), 1):
        if not line.strip():
            continue
        place = f"line {number}"
        label, *shares = _numbers(line, file, place)
        if label != int(label) or not 0 <= label < num_classes:
            raise AnnotationError(file, place, f"got class {label:g}, needs 0…{num_classes - 1}")
        if len(shares) == _BOX_NUMBERS:
            across, down, wide, high = shares
            corners = (across - wide / 2, down - high / 2, across + wide / 2, down + high / 2)
            shape = None
        elif len(shares) >= _LEAST_OUTLINE and len(shares) % 2 == 0:
            x, y = shares[0::2], shares[1::2]
            corners = (min(x), min(y), max(x), max(y))
            shape = Polygons((np.array(shares) * np.tile([width, height], len(x)),))
        else:
            raise AnnotationError(
                file, place, f"got {len(shares)} numbers after the class, needs 4, or 6 and more"
            )
        left, top, right, bottom = corners
        box = (left * width, top * height, right * width, bottom * height)
        boxes.append(box)
        labels.append(int(label))
        shapes.append(shape)
        of_box = (box[2] - box[0]) * (box[3] - box[1])
        areas.append(of_box if shape is None else polygon_area(shape))
        places.append(f"{file}: {place}")
    # Shares are rounded: less than a hundredth of a pixel beyond the image is no fault.
    note_objects(report, np.round(boxes, 2).tolist() if boxes else [], size, places)
    return Objects.of(boxes, labels, areas=areas, shapes=shapes)


def _numbers(line: str, file: Path, place: str) -> list[float]:
    try:
        numbers = [float(part) for part in line.split()]
    except ValueError as error:
        raise AnnotationError(file, place, f"got {line.strip()[:60]!r}, needs numbers") from error
    if not all(map(math.isfinite, numbers)):
        raise AnnotationError(file, place, f"got {line.strip()[:60]!r}, needs finite numbers")
    return numbers
