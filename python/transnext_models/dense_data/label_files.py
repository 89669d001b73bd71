"""Files whose pixels are classes: indices, or the entries of a palette."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..dense.run_lengths import Size
from ..images import memory
from .archived import opened_image
from .errors import AnnotationError
from .records import IGNORED, LabelFile

__all__ = ["read_indices", "read_labels", "size_of"]

_INDEX_MODES = ("L", "P", "1", "I", "I;16", "I;16B", "I;16L")
_COLOUR_MODES = ("RGB", "RGBA", "LA")


def read_indices(path: str | Path) -> NDArray[np.int64]:
    """Return the numbers that a file's pixels are, int64 [h, w].

    Of a palette the numbers of its entries are taken, not the colours. Grey that is stored as
    three equal channels counts as its value.

    Raises
    ------
    AnnotationError
        It cannot be read, or its pixels are colours.
    """
    with _opened(path) as image:
        if image.mode not in _INDEX_MODES + _COLOUR_MODES:
            raise AnnotationError(path, "", f"has pixels of mode {image.mode}, needs indices")
        values = np.asarray(image)
    if values.ndim == 3:
        grey = values[..., :3] if values.shape[2] >= 3 else values[..., :1]
        if (grey != grey[..., :1]).any():
            raise AnnotationError(
                path, "", "has colours, needs class numbers: a grey or a palette image"
            )
        values = grey[..., 0]
    return values.astype(np.int64)


def size_of(path: str | Path) -> Size:
    """Return the height and width of a label file, from its header."""
    with _opened(path) as image:
        return image.height, image.width


def read_labels(file: LabelFile, num_classes: int) -> NDArray[np.uint8]:
    """Return a label map, uint8 [h, w], 255 for no class.

    Raises
    ------
    AnnotationError
        It cannot be read, or has a class that the set has not; names the class.
    """
    values = read_indices(file.path)
    none = values == IGNORED
    if file.zero_is_other:
        none |= values == 0
        values = values - 1
    strange = ~none & ((values < 0) | (values >= num_classes))
    if strange.any():
        row, column = (int(place) for place in np.argwhere(strange)[0])
        got = int(values[row, column]) + file.zero_is_other
        last = num_classes - 1 + file.zero_is_other
        raise AnnotationError(
            file.path,
            f"pixel at row {row}, column {column}",
            f"got class {got}, the last is {last}",
        )
    return np.where(none, IGNORED, values).astype(np.uint8)


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    try:
        with opened_image(path) as image:
            memory.check_size(image.size)
            yield image
    except AnnotationError:
        raise
    except Exception as error:  # Pillow meets damaged files with almost anything
        raise AnnotationError(path, "", f"cannot be read as labels ({error})") from error
