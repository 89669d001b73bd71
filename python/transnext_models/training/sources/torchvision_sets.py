"""Data sets of torchvision by name, such as torch/cifar10, which timm creates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .image_set import ImageSet, LabelledImage

__all__ = ["TorchvisionImages", "torchvision_splits"]


def torchvision_splits(name: str, root: Path | None) -> tuple[TorchvisionImages, TorchvisionImages]:
    """Return both splits, in the order that torchvision has them in.

    Parameters
    ----------
    name : str
        `torch/` and torchvision's name.
    root : Path | None
        Where it is kept.

    Raises
    ------
    ValueError
        It cannot be created.
    """
    from timm.data import create_dataset

    def create(split: str) -> Any:
        try:
            return create_dataset(name, root=None if root is None else str(root), split=split)
        except Exception as error:  # whatever the library behind the name raises
            raise ValueError(f"{name}: the {split} images cannot be read: {error}") from error

    return (
        TorchvisionImages(create("train"), f"{name}[train]"),
        TorchvisionImages(create("validation"), f"{name}[validation]"),
    )


class TorchvisionImages(ImageSet):
    """Images of which only torchvision knows where they lie: what fails there is no image's fault.

    Parameters
    ----------
    images : Any
        Map-style data set of images and labels.
    title : str
        Its name in messages.
    """

    def __init__(self, images: Any, title: str) -> None:
        mapping = getattr(images, "class_to_idx", None)
        classes = tuple(sorted(mapping, key=mapping.__getitem__)) if mapping else None
        super().__init__(_labels(images), classes)
        self._images = images
        self._title = title

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> LabelledImage:
        """Return an image in RGB, its label and its name."""
        image, label = self._images[index][:2]
        return LabelledImage(image.convert("RGB"), int(label), self.name(index))

    def name(self, index: int) -> str:
        """Return the data set's name and an image's number."""
        return f"{self._title}: image {index}"


def _labels(images: Any) -> NDArray[np.int32] | None:
    """Return the labels, None where a data set does not tell them without its images."""
    for name in ("targets", "labels", "_labels"):
        found = np.asarray(getattr(images, name, []))
        if found.shape == (len(images),) and found.dtype.kind in "iu":
            return found.astype(np.int32)
    return None
