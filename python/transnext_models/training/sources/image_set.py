"""One split of a data set, wherever its images lie: image, label and name by number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from ..decoding import decode

__all__ = ["ImageSet", "LabelledImage", "UnreadableImage"]


class LabelledImage(NamedTuple):
    """What a source gives for a number.

    The label is an int, or float32 [classes] of zeros and ones where images have several.
    """

    image: Image.Image
    label: Any
    name: str


class UnreadableImage(Exception):
    """One image cannot be read; the message says why.

    Attributes
    ----------
    name : str
        Of the image.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class ImageSet(Dataset[LabelledImage]):
    """Labelled images by number, in the order of their classes and then of their names.

    Where they come from is a subclass's matter: its `name` and `open`. Nothing that it keeps open
    may have a position that processes share: a set is forked into loading processes, and pickled
    where they are started otherwise.

    Parameters
    ----------
    labels : int32 [n] | uint8 [n, classes] | None
        Of each image; or for each image and class, whether it has it. None where only images tell.
    class_names : tuple[str, ...] | None
        In the order of the labels; None where labels are bare numbers.

    Attributes
    ----------
    transform : Callable[[PIL.Image.Image], Any] | None
        For whoever takes images from the set; it does not apply it itself.
    crop_size : int | None
        See `decode`.
    """

    def __init__(self, labels: NDArray[Any] | None, class_names: tuple[str, ...] | None) -> None:
        self.labels = labels
        self.class_names = class_names
        self.transform: Callable[[Image.Image], Any] | None = None
        self.crop_size: int | None = None

    def __len__(self) -> int:
        assert self.labels is not None
        return len(self.labels)

    def __getitem__(self, index: int) -> LabelledImage:
        """Return an image in RGB, its label and its name.

        Raises
        ------
        UnreadableImage
            It is gone, damaged, no image or too large.
        """
        name = self.name(index)
        try:
            image = decode(self.open(index), self.crop_size)
        except (MemoryError, UnreadableImage):
            raise
        except Exception as error:  # Pillow meets damaged files with almost anything
            raise UnreadableImage(name, f"{type(error).__name__}: {error}") from error
        return LabelledImage(image, self.label(index), name)

    @property
    def has_several_labels(self) -> bool:
        """Whether an image can be of several classes."""
        return self.labels is not None and self.labels.ndim == 2

    @property
    def num_classes(self) -> int | None:
        """Classes, None where labels are bare numbers."""
        if self.class_names is not None:
            return len(self.class_names)
        if self.labels is not None and self.labels.ndim == 2:
            return int(self.labels.shape[1])
        return None

    def label(self, index: int) -> Any:
        """Return the label of an image without reading it."""
        if self.labels is None:
            raise ValueError(f"{self.name(index)}: has a label that only reading it tells")
        if self.labels.ndim == 2:
            return torch.from_numpy(self.labels[index].astype(np.float32))
        return int(self.labels[index])

    def name(self, index: int) -> str:
        """Return where an image lies, for messages."""
        raise NotImplementedError

    def open(self, index: int) -> BinaryIO:
        """Return the bytes of an image; whatever it raises makes the image unreadable."""
        raise NotImplementedError
