"""Images with their annotations from files, as samples.

Photographs may say by EXIF that they are to be turned. Annotations are for one of the two: the
size that they state decides, and where it is the size of both, or none is stated, the image is
turned.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..dense.run_lengths import Size
from ..images import ImageError, read_image
from ..training.sources.image_set import decode
from .archived import open_file, opened_image
from .errors import AnnotationError
from .label_files import read_labels, size_of
from .records import AnnotatedImage, Objects
from .sample import DenseSample

__all__ = ["bitmaps", "read_rgb", "read_sample", "upright_size"]

_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)


def read_sample(
    image: AnnotatedImage, *, for_training: bool, with_masks: bool = False, num_classes: int = 255
) -> DenseSample:
    """Read an image and what its method needs of the annotations.

    Parameters
    ----------
    image : AnnotatedImage
        Which.
    for_training : bool
        Whether boxes, labels and a label map are read, of objects that can be trained on.
    with_masks : bool
        Whether masks are.
    num_classes : int
        Of the set; a label map may have none beyond.

    Raises
    ------
    ImageError, AnnotationError
        The image or its labels cannot be read, or are of different sizes; names the file.
    """
    stated = image.size
    if stated is None and image.label_file is not None:
        stated = size_of(image.label_file.path)
    pixels = read_rgb(image.path, stated)
    size = (pixels.shape[0], pixels.shape[1])
    sample = DenseSample(pixels, image.image_id, size)
    if for_training and image.objects is not None:
        objects = image.objects.chosen(image.objects.trainable(size))
        masks = bitmaps(objects, size, image.path) if with_masks else None
        boxes = objects.boxes.astype(np.float32)
        sample = replace(sample, boxes=boxes, labels=objects.labels, masks=masks)
    if for_training and image.label_file is not None:
        sample = replace(sample, label_map=read_labels(image.label_file, num_classes))
    return sample


def read_rgb(path: str, size: Size | None) -> NDArray[np.uint8]:
    """Return uint8 [h, w, 3], turned upright unless annotations are for it as it is stored.

    Raises
    ------
    ImageError
        It cannot be read, or is of another size than `size` either way.
    """
    try:
        with open_file(path) as file:
            pixels = np.array(read_image(file))  # a copy: Pillow's memory cannot be written
    except ImageError as error:  # what is open has no name
        raise ImageError(path, error.reason) from error
    if size is None or pixels.shape[:2] == size:
        return pixels
    stored = np.array(decode(open_file(path)))
    if stored.shape[:2] != size:
        raise ImageError(
            path, f"is {_text(pixels.shape)}, its annotations are for {_text(size)} (height×width)"
        )
    return stored


def upright_size(path: str | Path) -> Size:
    """Return the height and width of an image, turned upright, from its header.

    Raises
    ------
    ImageError
        It cannot be read.
    """
    try:
        with opened_image(path) as image:
            width, height = image.size
            with contextlib.suppress(Exception):  # damaged EXIF data says nothing
                if image.getexif().get(_ORIENTATION) in _SIDEWAYS:
                    return width, height
            return height, width
    except Exception as error:  # Pillow meets damaged files with almost anything
        raise ImageError(path, f"cannot be read ({error})") from error


def bitmaps(objects: Objects, size: Size, path: str) -> NDArray[np.uint8]:
    """Return the masks of objects, uint8 [n, h, w]; AnnotationError where one has none."""
    masks = np.zeros((len(objects), *size), np.uint8)
    for target, shape in zip(masks, objects.shapes, strict=True):
        if shape is None:
            raise AnnotationError(path, "", "has a box without a mask, needs a mask for each")
        target[:] = shape.bitmap(size)
    return masks


def _text(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}×{shape[1]}"
