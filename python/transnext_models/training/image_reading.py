"""Images of a source, loaded one by one with random numbers of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from typing import Any, TypeVar

from torch.utils.data import Dataset

from .random_numbers import seed_sample
from .sampling import Sample
from .sources import ImageSet, UnreadableImage
from .sources.streams import READABLE, LoadingError

__all__ = [
    "READABLE",
    "TrainingImages",
    "UnreadableImages",
    "ValidationImages",
    "first_readable",
    "plain_errors",
]

T = TypeVar("T")


_TRIES = 10  # images in a row that cannot be read before the data set is taken to be out of reach
_LISTED = 100  # names in an error; all of them were said before


def plain_errors(batches: Iterator[Any]) -> Iterator[Any]:
    """Raise a `LoadingError` of a loading process as it was, without the traceback in its text.

    With any error the other loading processes end, which would go on as long as somebody keeps it.
    """
    try:
        yield from batches
    except Exception as error:
        if hasattr(batches, "_shutdown_workers"):
            batches._shutdown_workers()
        if not isinstance(error, LoadingError):
            raise
        text = str(error).rpartition(f"{LoadingError.__name__}: ")[2]
        raise LoadingError(text.strip()) from error


class TrainingImages(Dataset[tuple[Any, Any, str]]):
    """Augmented images by their position in a run.

    Parameters
    ----------
    images : ImageSet
        Its transform included.
    seed : int
        Of the run.
    """

    def __init__(self, images: ImageSet, seed: int) -> None:
        self._images = images
        self._seed = seed

    def __getitem__(self, sample: Sample) -> tuple[Any, Any, str]:
        """Image, label, and the name of the image this one stands in for, or READABLE.

        For an image that cannot be read stands the next one that can.
        """
        seed_sample(self._seed, sample.epoch, sample.position)
        return _readable(self._images, sample.image)


class ValidationImages(Dataset[tuple[Any, Any, str]]):
    """Preprocessed images by their number; as `TrainingImages` without random numbers."""

    def __init__(self, images: ImageSet) -> None:
        self._images = images

    def __getitem__(self, index: int) -> tuple[Any, Any, str]:
        """Image, label, and the name of the image this one stands in for, or READABLE."""
        return _readable(self._images, index)


class UnreadableImages:
    """The images of one data set found unreadable so far: named once, and not too many.

    Parameters
    ----------
    images : Sized
        The data set.
    what : str
        Its name in messages.
    """

    ALLOWED = 0.001
    """The largest share of a data set, above which a run is not what its user means it to be."""

    def __init__(self, images: Sized, what: str) -> None:
        self._total = len(images)
        self._what = what
        self._found: dict[str, None] = {}  # in the order in which they were found

    def __len__(self) -> int:
        """Return how many were found."""
        return len(self._found)

    def note(self, names: list[str]) -> list[str]:
        """Take up the third entry of a batch; the names of images not met before.

        Raises
        ------
        RuntimeError
            More than one image and more than 0.1 % of the data set cannot be read; lists them.
        """
        new = sorted({name for name in names if name != READABLE} - self._found.keys())
        self._found.update(dict.fromkeys(new))
        count = len(self._found)
        if new and count > max(1, int(self.ALLOWED * self._total)):
            listed = list(self._found)[:_LISTED]
            rest = "" if count == len(listed) else f", and {count - len(listed)} more, named before"
            raise RuntimeError(
                f"--data: {count} of {self._total} {self._what} images cannot be read, more than "
                f"{self.ALLOWED:.1%}: repair or remove {', '.join(listed)}{rest}"
            )
        return new


def _readable(images: ImageSet, index: int) -> tuple[Any, Any, str]:
    (image, label, _), stand_in = first_readable(images.__getitem__, len(images), index)
    pixels = image if images.transform is None else images.transform(image)
    return pixels, label, stand_in


def first_readable(read: Callable[[int], T], length: int, index: int) -> tuple[T, str]:
    """Return what `read` gives for an image, or for the next one that it can read.

    Parameters
    ----------
    read : Callable[[int], T]
        Takes the number of an image, and raises `UnreadableImage`.
    length, index : int
        How many images there are, and the number of the wanted one.

    Returns
    -------
    It, and the name of the image that another one stands in for, or READABLE.

    Raises
    ------
    LoadingError
        So many images in a row cannot be read.
    """
    first: UnreadableImage | None = None
    tries = min(_TRIES, length)
    for offset in range(tries):
        try:
            found = read((index + offset) % length)
        except UnreadableImage as error:
            first = first or error
            continue
        return found, READABLE if first is None else first.name
    assert first is not None
    raise LoadingError(
        f"--data: {tries} images in a row cannot be read, from {first.name} on: {first.reason}"
    )
