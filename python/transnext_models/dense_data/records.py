"""Annotated images, in one form whatever format they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dense.run_lengths import Size
from .report import Report
from .shapes import Shape

__all__ = ["IGNORED", "AnnotatedImage", "AnnotatedSet", "LabelFile", "Objects"]

IGNORED = 255
"""In a label map: a pixel of no class, which counts neither in a loss nor in a score."""

_SMALLEST_SIDE = 1.0  # of a box to train on


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """The n objects of an image.

    Attributes
    ----------
    boxes : float64 [n, 4]
        Left, top, right, bottom in pixels, as in the file: they may reach beyond the image.
    labels : int64 [n]
        From 0.
    crowd : bool [n]
        Whether a box is around many objects; such a one is for evaluation only.
    areas : float64 [n]
        Of the masks, of the boxes where there are none.
    shapes : tuple[Shape | None, ...]
        Their masks, None for a box without one.
    """

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    shapes: tuple[Shape | None, ...]

    @classmethod
    def of(
        cls,
        boxes: Sequence[Any] | NDArray[Any],
        labels: Sequence[int] | NDArray[Any],
        *,
        crowd: Sequence[bool] | None = None,
        areas: Sequence[float] | None = None,
        shapes: Sequence[Shape | None] | None = None,
    ) -> Objects:
        """Return objects from sequences; without masks where `shapes` is None."""
        corners = np.asarray(boxes, np.float64).reshape(-1, 4)
        count = len(corners)
        sides = corners[:, 2:] - corners[:, :2]
        return cls(
            corners,
            np.asarray(labels, np.int64).reshape(count),
            np.zeros(count, bool) if crowd is None else np.asarray(crowd, bool),
            sides.prod(1) if areas is None else np.asarray(areas, np.float64),
            (None,) * count if shapes is None else tuple(shapes),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, which: NDArray[Any]) -> Objects:
        """Return those at an index of NumPy."""
        numbers = np.arange(len(self))[which]
        return Objects(
            self.boxes[which],
            self.labels[which],
            self.crowd[which],
            self.areas[which],
            tuple(self.shapes[number] for number in numbers),
        )

    def trainable(self, size: Size) -> NDArray[np.bool_]:
        """Return which can be trained on, bool [n].

        As published: no crowd, an area, sides of a pixel at least, and some of it in the image.
        """
        height, width = size
        left, top, right, bottom = self.boxes.T
        inside = (np.minimum(right, width) > np.maximum(left, 0)) & (
            np.minimum(bottom, height) > np.maximum(top, 0)
        )
        wide = (right - left >= _SMALLEST_SIDE) & (bottom - top >= _SMALLEST_SIDE)
        return inside & wide & (self.areas > 0) & ~self.crowd


@dataclass(frozen=True, slots=True)
class LabelFile:
    """A file whose pixels are classes.

    Attributes
    ----------
    path : str
    zero_is_other : bool
        ADE20K's rule: 0 is no class, and k is class k - 1.
    """

    path: str
    zero_is_other: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedImage:
    """An image, and what is known about it.

    Attributes
    ----------
    image_id : int | str
        As results name it: COCO's id, elsewhere the number of the image.
    path : str
        Its file.
    size : tuple[int, int] | None
        Height and width that the annotations are for, None where only the file tells.
    objects : Objects | None
        For detection.
    label_file : LabelFile | None
        For semantic segmentation.
    """

    image_id: int | str
    path: str
    size: Size | None
    objects: Objects | None = None
    label_file: LabelFile | None = None


@dataclass(slots=True, eq=False)
class AnnotatedSet:
    """One split of a data set.

    Attributes
    ----------
    images : list[AnnotatedImage]
    class_names : tuple[str, ...]
        In the order of the labels.
    category_ids : tuple[int, ...]
        What results call the classes; COCO's skip numbers.
    source : str
        The file or folder, for messages.
    report : Report
        What was done to entries that are not as they should be.
    """

    images: list[AnnotatedImage]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    source: str
    report: Report = field(default_factory=Report)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """How many classes there are, whether or not an object has them."""
        return len(self.class_names)

    @property
    def has_masks(self) -> bool:
        """Whether every object has a mask, and there is one."""
        shapes = [
            shape
            for image in self.images
            if image.objects is not None
            for shape, crowd in zip(image.objects.shapes, image.objects.crowd, strict=True)
            if not crowd
        ]
        return bool(shapes) and all(shape is not None for shape in shapes)
