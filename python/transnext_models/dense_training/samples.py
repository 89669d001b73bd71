"""Samples that can be read, and what else a validation needs of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ..dense_data.batches import DenseBatch, collate
from ..dense_data.datasets import TestSamples, TrainingSamples
from ..dense_data.errors import AnnotationError
from ..dense_data.label_files import read_labels
from ..dense_data.records import AnnotatedImage
from ..dense_data.sample import DenseSample
from ..images import ImageError
from ..training.image_reading import READABLE, first_readable
from ..training.sampling import Sample
from ..training.sources import UnreadableImage

__all__ = ["ReadableTraining", "Validated", "ValidationSamples", "collate_each", "collate_training"]

T = TypeVar("T")


class ReadableTraining(Dataset[tuple[DenseSample, str]]):
    """Training samples; for an image that cannot be read stands the next one that can."""

    def __init__(self, samples: TrainingSamples, images: Sequence[AnnotatedImage]) -> None:
        self._samples = samples
        self._images = images

    def __getitem__(self, sample: Sample) -> tuple[DenseSample, str]:
        """Return a sample, and the image that it stands in for, or READABLE."""

        def read(index: int) -> DenseSample:
            taken = sample._replace(image=index)
            return _read(self._images[index], lambda: self._samples[taken])

        return first_readable(read, len(self._images), sample.image)


@dataclass(frozen=True, slots=True, eq=False)
class Validated:
    """An image to validate on.

    Attributes
    ----------
    batch : DenseBatch | None
        The image alone; None where it cannot be read.
    label_map : uint8 [h, w] | None
        Of the original image, for segmentation.
    """

    batch: DenseBatch | None
    label_map: NDArray[np.uint8] | None = None

    def pin_memory(self) -> Validated:
        """Return it in memory that a GPU copies from."""
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())

    def to(self, device: torch.device | str, **_: Any) -> Validated:
        """Return it with the image on a device."""
        return self if self.batch is None else replace(self, batch=self.batch.to(device))


class ValidationSamples(Dataset[tuple[DenseSample | None, NDArray[np.uint8] | None, str]]):
    """Images as they are validated, by number.

    Parameters
    ----------
    samples : TestSamples
        Of `images`.
    images : Sequence[AnnotatedImage]
        All of them.
    num_classes : int
        Of the set.
    """

    def __init__(
        self, samples: TestSamples, images: Sequence[AnnotatedImage], num_classes: int
    ) -> None:
        self._samples = samples
        self._images = images
        self._num_classes = num_classes

    def __getitem__(self, number: int) -> tuple[DenseSample | None, NDArray[np.uint8] | None, str]:
        """Return an image, its label map where it has one, and its name or READABLE."""
        image = self._images[number]

        def read() -> tuple[DenseSample, NDArray[np.uint8] | None]:
            sample, file = self._samples[number], image.label_file
            return sample, None if file is None else read_labels(file, self._num_classes)

        try:
            return (*_read(image, read), READABLE)
        except UnreadableImage as error:
            return None, None, error.name


def collate_training(
    samples: Sequence[tuple[DenseSample, str]], divisor: int, least_side: int
) -> tuple[DenseBatch, list[str]]:
    """Put samples of `ReadableTraining` together."""
    batch = collate([sample for sample, _ in samples], divisor, least_side)
    return batch, [name for _, name in samples]


def collate_each(
    samples: Sequence[tuple[DenseSample | None, NDArray[np.uint8] | None, str]], divisor: int
) -> tuple[Validated, list[str]]:
    """Return the one sample of `ValidationSamples` that there is, normalised and padded."""
    ((sample, label_map, name),) = samples
    return Validated(None if sample is None else collate([sample], divisor), label_map), [name]


def _read(image: AnnotatedImage, read: Callable[[], T]) -> T:
    try:
        return read()
    except (ImageError, AnnotationError) as error:
        raise UnreadableImage(image.path, error.reason) from error
