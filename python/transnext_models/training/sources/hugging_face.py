"""Data sets of Hugging Face: from the hub, or as `save_to_disk` leaves them."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .image_set import ImageSet
from .requirements import needed

__all__ = ["SAVED", "HuggingFaceImages", "hugging_face_splits"]

SAVED = "dataset_dict.json"
"""What says that a folder was made by `save_to_disk`."""

_VAL_SPLITS = ("validation", "val", "valid", "test")


def hugging_face_splits(
    name: str, root: Path | None
) -> tuple[HuggingFaceImages, HuggingFaceImages]:
    """Return both splits: `train`, and `validation`, or `test` where there is none.

    Parameters
    ----------
    name : str
        Of the hub, or a folder of parquet files or images; or one written by `save_to_disk`.
    root : Path | None
        Where it is kept; the hub's cache without it.

    Raises
    ------
    ValueError
        It cannot be loaded, has no such split, or no images with one class each.
    """
    datasets = needed("datasets", "sources", f"hfds/{name}")
    try:
        if (Path(name) / SAVED).is_file():
            found = datasets.load_from_disk(name)
        else:
            found = datasets.load_dataset(name, cache_dir=None if root is None else str(root))
    except Exception as error:  # whatever the library, its file systems and the network raise
        raise ValueError(f"{name}: cannot be loaded: {error}") from error
    return _split(found, name, ("train",)), _split(found, name, _VAL_SPLITS)


def _split(found: Mapping[str, Any], name: str, splits: Sequence[str]) -> HuggingFaceImages:
    split = next((split for split in splits if split in found), None)
    if split is None:
        raise ValueError(f"{name}: has the splits {', '.join(found)}, needs {' or '.join(splits)}")
    return HuggingFaceImages(found[split], f"{name}[{split}]")


class HuggingFaceImages(ImageSet):
    """One split of a data set.

    Parameters
    ----------
    rows : datasets.Dataset
        With a column of images, and one of classes.
    title : str
        Its name in messages.

    Raises
    ------
    ValueError
        It has no such columns.
    """

    def __init__(self, rows: Any, title: str) -> None:
        datasets = needed("datasets", "sources", title)
        self._image = _column(rows, datasets.Image, "image", title)
        column = _column(rows, datasets.ClassLabel, "label", title)
        classes = tuple(rows.features[column].names)
        labels = np.array(rows[column][:], np.int64)
        self._rows = rows.select_columns(self._image).cast_column(
            self._image, datasets.Image(decode=False)
        )
        if labels.size == 0 or labels.min() < 0:  # the hub's test splits have -1 throughout
            raise ValueError(f"{title}: has images without a label")
        paths = self._paths()
        self._order = np.array(
            sorted(range(len(labels)), key=lambda row: (labels[row], paths[row])), np.int64
        )
        super().__init__(labels[self._order].astype(np.int32), classes)
        self._title = title

    def name(self, index: int) -> str:
        """Return the data set's name and an image's row."""
        return f"{self._title}: row {self._order[index]}"

    def open(self, index: int) -> BinaryIO:
        """Return the bytes of an image."""
        cell = self._rows[int(self._order[index])][self._image]
        if cell["bytes"] is not None:
            return io.BytesIO(cell["bytes"])
        return open(cell["path"], "rb")

    def _paths(self) -> list[str]:
        """Return the names of the images, without reading them; none where rows are not whole."""
        if self._rows._indices is not None:
            return [""] * len(self._rows)
        chunks = self._rows.data.column(self._image).chunks
        paths = (path for chunk in chunks for path in chunk.field("path").to_pylist())
        return [os.path.basename(path or "") for path in paths]


def _column(rows: Any, kind: type, usual: str, title: str) -> str:
    """Return the one column of this kind, or the usual one of several."""
    found = [name for name, feature in rows.features.items() if isinstance(feature, kind)]
    if usual in found:
        return usual
    if len(found) != 1:
        raise ValueError(
            f"{title}: got {' and '.join(found) or 'no'} columns of the kind {kind.__name__}, "
            f"needs one, or one named {usual}"
        )
    return found[0]
