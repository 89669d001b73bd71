"""The set that a model is evaluated on: what it is called, and whether it is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..dense.classes import category_ids, class_names
from ..dense_data.coco import read_coco
from ..dense_data.find import open_validation
from ..dense_data.records import AnnotatedImage, AnnotatedSet
from .options import DenseOptions

__all__ = ["EvaluatedSet", "open_set"]

COCO, ADE20K = "coco", "ade20k"
_IMAGES = {COCO: 5_000, ADE20K: 2_000}
_COCO_CLASSES, _ADE20K_CLASSES = 80, 150


@dataclass(frozen=True)
class EvaluatedSet:
    """Annotated images, and what rows say about them.

    Attributes
    ----------
    annotated : AnnotatedSet
        Those that count.
    name : str
        ``coco`` or ``ade20k`` for the published sets, else that of the folder.
    note : str
        What marks the rows, "" where nothing does.
    others : frozenset of int | str
        Ids of the set's images that do not count.
    """

    annotated: AnnotatedSet
    name: str
    note: str = ""
    others: frozenset[int | str] = frozenset()

    def digest(self) -> str:
        """Return a hash of which images with which classes these are."""
        digest = hashlib.sha256(repr(self.annotated.category_ids).encode())
        for image in self.annotated.images:
            digest.update(f"{image.image_id!r} {Path(image.path).name} {image.size}\n".encode())
        return digest.hexdigest()

    def without_objects(self) -> list[AnnotatedImage]:
        """Return the images as other processes need them."""
        return [replace(image, objects=None) for image in self.annotated.images]


def open_set(options: DenseOptions) -> EvaluatedSet:
    """Read the annotations that options name.

    Raises
    ------
    ValueError
        There are none, an entry is broken, or images are missing and that is not allowed; names
        the file, and the entry.
    """
    if options.annotations is not None and options.images is not None:
        place = options.annotations
        annotated = read_coco(place, options.images, allow_missing=options.allow_incomplete)
        kind = "COCO"
    else:
        assert options.data is not None
        place = options.data
        annotated, kind = open_validation(
            place, options.task, allow_missing=options.allow_incomplete
        )
    if not annotated.images:
        raise ValueError(f"{annotated.source}: got no images, needs one at least")
    return _named(annotated, kind, place, options)


def _named(annotated: AnnotatedSet, kind: str, place: Path, options: DenseOptions) -> EvaluatedSet:
    name, notes = _name(annotated, kind, place), []
    missing = annotated.report.count("images are missing")
    whole = max(_IMAGES.get(name, 0), len(annotated) + missing)
    if len(annotated) < whole:
        if not options.allow_incomplete and options.limit is None:
            raise ValueError(
                f"{annotated.source}: got {len(annotated):,} images, {name} has {whole:,}; "
                "--allow-incomplete goes on, and marks the results"
            )
        notes.append(f"incomplete: {len(annotated):,} of {whole:,} images")
    others: Sequence[AnnotatedImage] = ()
    if options.limit is not None and options.limit < len(annotated):
        others = annotated.images[options.limit :]
        notes = [f"first {options.limit:,} of {whole:,} images"]
        annotated = replace(annotated, images=annotated.images[: options.limit])
    return EvaluatedSet(
        annotated, name, ", ".join(notes), frozenset(image.image_id for image in others)
    )


def _name(annotated: AnnotatedSet, kind: str, place: Path) -> str:
    """Return what rows call a set: a published set's name only if its classes are those."""
    if kind == "COCO" and annotated.category_ids == tuple(category_ids(class_names(_COCO_CLASSES))):
        return COCO
    if kind == "ADE20K" and annotated.num_classes == _ADE20K_CLASSES:
        return ADE20K
    own = place.resolve().stem
    return f"own {own}" if own in _IMAGES else own
