"""Images of a data set, loaded one by one with random numbers of their own."""

from __future__ import annotations

import contextlib
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from .random_numbers import seed_sample
from .sampling import Sample

__all__ = ["READABLE", "TrainingImages", "UnreadableImages", "ValidationImages"]

READABLE = -1
"""In a batch, where another number is that of an image that cannot be read."""

_TRIES = 10  # images in a row that cannot be read before the data set is taken to be out of reach


class TrainingImages(Dataset[tuple[Any, int, int]]):
    """Augmented images by their position in a run.

    Parameters
    ----------
    images : Any
        Map-style data set of timm or torchvision, its transform included.
    seed : int
        Of the run.
    """

    def __init__(self, images: Any, seed: int) -> None:
        self._images = images
        self._seed = seed

    def __getitem__(self, sample: Sample) -> tuple[Any, int, int]:
        """Image, label, and the number of the image this one stands in for, or READABLE.

        For an image that cannot be read stands the next one that can.
        """
        seed_sample(self._seed, sample.epoch, sample.position)
        return _readable(self._images, sample.image)


class ValidationImages(Dataset[tuple[Any, int, int]]):
    """Preprocessed images by their number; as `TrainingImages` without random numbers."""

    def __init__(self, images: Any) -> None:
        self._images = images

    def __getitem__(self, index: int) -> tuple[Any, int, int]:
        """Image, label, and the number of the image this one stands in for, or READABLE."""
        return _readable(self._images, index)


class UnreadableImages:
    """The images of one data set found unreadable so far: named once, and not too many.

    Parameters
    ----------
    images : Any
        The data set.
    what : str
        Its name in messages.
    """

    ALLOWED = 0.001
    """The largest share of a data set, above which a run is not what its user means it to be."""

    def __init__(self, images: Any, what: str) -> None:
        self._images = images
        self._what = what
        self._found: set[int] = set()

    def note(self, indices: list[int]) -> list[str]:
        """Take up the third entry of a batch; the names of images not met before.

        Raises
        ------
        RuntimeError
            More than one image and more than 0.1 % of the data set cannot be read.
        """
        new = sorted({index for index in indices if index != READABLE} - self._found)
        self._found.update(new)
        names = [_name(self._images, index) for index in new]
        total = len(self._images)
        if new and len(self._found) > max(1, int(self.ALLOWED * total)):
            raise RuntimeError(
                f"--data: {len(self._found)} of {total} {self._what} images cannot be read, "
                f"{names[0]} among them: repair or remove them"
            )
        return names


def _readable(images: Any, index: int) -> tuple[Any, int, int]:
    for offset in range(_TRIES):
        tried = (index + offset) % len(images)
        try:
            image, label = _load(images, tried)
        except _Unreadable as error:
            reason = str(error)
            continue
        return image, label, READABLE if offset == 0 else index
    raise RuntimeError(
        f"--data: {_TRIES} images in a row cannot be read, from {_name(images, index)} on: {reason}"
    )


class _Unreadable(Exception):
    """An image cannot be read; the message says why."""


def _load(images: Any, index: int) -> tuple[Any, int]:
    """Return the transformed image and its label."""
    reader = getattr(images, "reader", None)
    if reader is None:  # torchvision's: what may be wrong with them is not known
        image, label = images[index][:2]
        return image, int(label)
    try:
        source, label = reader[index][:2]
        with contextlib.closing(source), Image.open(source) as opened:
            image = opened.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow meets damaged files with almost anything
        raise _Unreadable(f"{type(error).__name__}: {error}") from error
    if images.transform is not None:
        image = images.transform(image)
    return image, -1 if label is None else int(label)


def _name(images: Any, index: int) -> str:
    reader = getattr(images, "reader", None)
    if reader is not None:
        with contextlib.suppress(Exception):  # a name is a courtesy, whatever the reader is
            return str(reader.filename(index, absolute=True))
    return f"image {index}"
