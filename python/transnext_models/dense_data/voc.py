"""Pascal VOC's annotations: an XML file for each image.

Source: Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 2010.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from ..dense.run_lengths import Size
from ..training.sources.classes import in_order
from .checks import note_objects, read_text, without_missing
from .errors import AnnotationError
from .images_by_name import images_by_stem
from .records import AnnotatedImage, AnnotatedSet, Objects
from .report import Report
from .xml_tree import read_tree

__all__ = ["listed_files", "listed_names", "read_voc", "voc_class_names"]

_MOST_BYTES = 64 << 20
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(
    files: Sequence[Path],
    images: Path,
    class_names: Sequence[str],
    *,
    allow_missing: bool = False,
) -> AnnotatedSet:
    """Read the boxes of images.

    Corners are pixels from 1, as VOC has them: a box reaches from ``xmin - 1`` to ``xmax``. Objects
    marked difficult count as crowds: they are neither trained on nor missed.

    Parameters
    ----------
    files : Sequence[Path]
        The XML files of a split.
    images : Path
        The folder of the images that they name.
    class_names : Sequence[str]
        See `voc_class_names`.
    allow_missing : bool
        Whether images without a file are left out, and counted, rather than an error.

    Raises
    ------
    AnnotationError
        A file is broken, or has a class that is not in `class_names`; names it.
    """
    labels = {name: label for label, name in enumerate(class_names)}
    by_stem = images_by_stem(images)
    report = Report()
    found = []
    for number, file in enumerate(files, 1):
        root = read_tree(file)
        size = _size(root, file)
        name = (root.findtext("filename") or "").strip()
        path = images / name if name and (images / name).is_file() else by_stem.get(file.stem)
        objects = _objects(root, file, size, labels, report)
        found.append(
            AnnotatedImage(number, str(path or images / (name or file.stem)), size, objects)
        )
    found = without_missing(found, images, report, allow_missing)
    return AnnotatedSet(
        found, tuple(class_names), tuple(range(1, len(labels) + 1)), str(images), report
    )


def voc_class_names(files: Sequence[Path]) -> tuple[str, ...]:
    """Return the names of all classes that the objects of XML files have, in order."""
    names = set()
    for file in files:
        for entry in read_tree(file).findall("object"):
            names.add((entry.findtext("name") or "").strip())
    return in_order(names - {""})


def listed_names(listing: Path) -> list[str]:
    """Return the names, without suffix, that a file of ``ImageSets`` lists."""
    lines = read_text(listing, _MOST_BYTES).splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def listed_files(listing: Path, annotations: Path) -> list[Path]:
    """Return the XML files that a file of ``ImageSets`` lists."""
    return [annotations / f"{name}.xml" for name in listed_names(listing)]


def _size(root: Element, file: Path) -> Size:
    sides = [_number(root.find(f"size/{name}"), file, "size") for name in ("height", "width")]
    if not all(side >= 1 and side == int(side) for side in sides):
        raise AnnotationError(file, "size", f"got {sides}, needs whole numbers from 1 on")
    return int(sides[0]), int(sides[1])


def _objects(
    root: Element, file: Path, size: Size, labels: dict[str, int], report: Report
) -> Objects:
    boxes, numbers, difficult, places = [], [], [], []
    for index, entry in enumerate(root.findall("object")):
        place = f"object {index}"
        name = (entry.findtext("name") or "").strip()
        if name not in labels:
            raise AnnotationError(file, place, f"name: got {name!r}, needs one of the classes")
        box = entry.find("bndbox")
        if box is None:
            raise AnnotationError(file, place, "has no bndbox")
        left, top, right, bottom = (_number(box.find(side), file, place) for side in _CORNERS)
        if right < left or bottom < top:
            got = f"bndbox: got {left, top, right, bottom}"
            raise AnnotationError(file, place, f"{got}, needs xmin ≤ xmax, ymin ≤ ymax")
        boxes.append((left - 1, top - 1, right, bottom))
        numbers.append(labels[name])
        difficult.append((entry.findtext("difficult") or "0").strip() == "1")
        places.append(f"{file}: {place}")
    if any(difficult):
        report.note("objects are difficult: not trained on", str(file), sum(difficult))
    note_objects(report, boxes, size, places)
    return Objects.of(boxes, numbers, crowd=difficult)


def _number(element: Element | None, file: Path, place: str) -> float:
    text = None if element is None else (element.text or "").strip()
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        name = "a number" if element is None else element.tag
        raise AnnotationError(file, place, f"{name}: got {text!r}, needs a finite number")
    return value
