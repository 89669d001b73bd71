"""COCO's annotations: one JSON file of images, categories and objects.

Source: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014, arXiv 1405.0312.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..dense.run_lengths import Size, run_lengths_of
from .checks import finite, note_objects, without_missing
from .errors import AnnotationError
from .json_elements import top_level_elements
from .records import AnnotatedImage, AnnotatedSet, Objects
from .report import Report
from .shapes import Polygons, Shape, polygon_area, polygons_of

__all__ = ["read_coco"]

_LISTS = ("images", "categories", "annotations")


@dataclass(slots=True)
class _Entry:
    """One object of the file, checked as far as it can be without its image."""

    index: int
    image_id: int | str
    category_id: int
    box: list[float]
    area: float | None
    crowd: bool
    segmentation: Any


@dataclass(slots=True)
class _File:
    """What the lists of a file hold."""

    path: Path
    images: dict[int | str, tuple[str, Size]] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)
    entries: dict[int | str, list[_Entry]] = field(default_factory=dict)
    report: Report = field(default_factory=Report)

    def fail(self, entry: str, reason: str) -> AnnotationError:
        return AnnotationError(self.path, entry, reason)


def read_coco(file: Path, images: Path, *, allow_missing: bool = False) -> AnnotatedSet:
    """Read a file of COCO's format.

    Categories keep their ids; labels go by ascending id. Objects of images that the file does not
    list are left out and counted, objects marked ``ignore`` too.

    Parameters
    ----------
    file : Path
        Its path.
    images : Path
        The folder that `file_name` starts from, or an archive (see `archived`).
    allow_missing : bool
        Whether images without a file are left out, and counted, rather than an error.

    Raises
    ------
    AnnotationError
        The file, or an entry, is broken; names it.
    """
    content = _read(file)
    labels = {category: label for label, category in enumerate(sorted(content.categories))}
    found = []
    for image_id, (name, size) in content.images.items():
        entries = content.entries.pop(image_id, [])
        objects = _objects(content, entries, size, labels)
        found.append(AnnotatedImage(image_id, os.path.join(images, name), size, objects))
    for image_id, entries in content.entries.items():
        content.report.note(
            "objects are of images that the file does not list: left out",
            f"annotations[{entries[0].index}], image {image_id}",
            len(entries),
        )
    found = without_missing(found, file, content.report, allow_missing)
    names = tuple(content.categories[category] for category in labels)
    return AnnotatedSet(found, names, tuple(labels), str(file), content.report)


def _read(file: Path) -> _File:
    content = _File(file)
    readers: dict[str, Callable[[_File, int, dict[str, Any]], None]] = {
        "images": _read_image,
        "categories": _read_category,
        "annotations": _read_entry,
    }
    seen = set()
    for key, index, value in top_level_elements(file):
        seen.add(key)
        if key not in readers:
            continue
        if index is None or not isinstance(value, dict):
            place = key if index is None else f"{key}[{index}]"
            needs = "a list" if index is None else "an object"
            raise content.fail(place, f"got {type(value).__name__}, needs {needs}")
        readers[key](content, index, value)
    for key in _LISTS:
        # An empty list yields no element.
        if key not in seen and not (key == "annotations" and content.images):
            raise content.fail("", f"has no {key!r}, needs {', '.join(_LISTS)}")
    return content


def _read_image(content: _File, index: int, value: dict[str, Any]) -> None:
    place = f"images[{index}]"
    image_id, name = value.get("id"), value.get("file_name")
    if not isinstance(image_id, int | str) or isinstance(image_id, bool):
        raise content.fail(place, f"id: got {image_id!r}, needs a number or text")
    if not isinstance(name, str) or not name or "\0" in name:
        raise content.fail(place, f"file_name: got {name!r}, needs the name of a file")
    sides = value.get("height"), value.get("width")
    if not all(type(side) is int and side > 0 for side in sides):
        raise content.fail(place, f"height, width: got {sides}, needs whole numbers from 1 on")
    if image_id in content.images:
        raise content.fail(place, f"id {image_id} is there twice")
    content.images[image_id] = name, sides  # type: ignore[assignment]


def _read_category(content: _File, index: int, value: dict[str, Any]) -> None:
    place = f"categories[{index}]"
    category, name = value.get("id"), value.get("name")
    if type(category) is not int:
        raise content.fail(place, f"id: got {category!r}, needs a whole number")
    if not isinstance(name, str) or not name:
        raise content.fail(place, f"name: got {name!r}, needs text")
    if category in content.categories:
        raise content.fail(place, f"id {category} is there twice")
    content.categories[category] = name


def _read_entry(content: _File, index: int, value: dict[str, Any]) -> None:
    place = f"annotations[{index}]"
    if value.get("ignore"):
        content.report.note("objects are marked to be ignored: left out", place)
        return
    image_id, category = value.get("image_id"), value.get("category_id")
    if not isinstance(image_id, int | str) or isinstance(image_id, bool):
        raise content.fail(place, f"image_id: got {image_id!r}, needs a number or text")
    if type(category) is not int:
        raise content.fail(place, f"category_id: got {category!r}, needs a whole number")
    segmentation = value.get("segmentation") or None
    if isinstance(segmentation, list):
        try:
            segmentation = polygons_of(segmentation)
        except ValueError as error:
            raise content.fail(place, f"segmentation: {error}") from error
    elif segmentation is not None and not isinstance(segmentation, dict):
        kind = type(segmentation).__name__
        raise content.fail(place, f"segmentation: got {kind}, needs polygons or run lengths")
    box = value.get("bbox")
    if box is None and isinstance(segmentation, Polygons):
        box = _box_around(segmentation)
        content.report.note("objects have no box: taken from their outline", place)
    if not isinstance(box, list) or len(box) != 4 or not finite(box):
        raise content.fail(place, f"bbox: got {str(box)[:60]}, needs 4 finite numbers x, y, w, h")
    area = value.get("area")
    if area is not None and not finite([area]):
        raise content.fail(place, f"area: got {area!r}, needs a finite number")
    crowd = value.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise content.fail(place, f"iscrowd: got {crowd!r}, needs 0 or 1")
    entry = _Entry(index, image_id, category, box, area, bool(crowd), segmentation)
    content.entries.setdefault(image_id, []).append(entry)


def _box_around(shape: Polygons) -> list[float]:
    left, top = (min(float(part[axis::2].min()) for part in shape.parts) for axis in (0, 1))
    right, bottom = (max(float(part[axis::2].max()) for part in shape.parts) for axis in (0, 1))
    return [left, top, right - left, bottom - top]


def _objects(content: _File, entries: list[_Entry], size: Size, labels: dict[int, int]) -> Objects:
    boxes, areas = [], []
    shapes: list[Shape | None] = []
    for entry in entries:
        place = f"annotations[{entry.index}]"
        if entry.category_id not in labels:
            raise content.fail(place, f"category_id {entry.category_id} is in no category")
        shape = entry.segmentation
        if isinstance(shape, dict):
            try:
                shape = run_lengths_of(shape, size)
            except ValueError as error:
                raise content.fail(place, f"segmentation: {error}") from error
        left, top, width, height = entry.box
        boxes.append((left, top, left + width, top + height))
        shapes.append(shape)
        areas.append(_area(shape, width * height) if entry.area is None else float(entry.area))
    places = [f"annotations[{entry.index}]" for entry in entries]
    note_objects(content.report, boxes, size, places)
    return Objects.of(
        boxes,
        [labels[entry.category_id] for entry in entries],
        crowd=[entry.crowd for entry in entries],
        areas=areas,
        shapes=shapes,
    )


def _area(shape: Shape | None, of_box: float) -> float:
    if shape is None:
        return of_box
    if isinstance(shape, Polygons):
        return polygon_area(shape)
    return float(shape.counts[1::2].sum())
