"""Annotated images to train and to validate on, by batches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..checkpoints.errors import escaped
from ..dense_data.batches import DenseBatch
from ..dense_data.datasets import TestSamples, TrainingSamples, images_to_train_on
from ..dense_data.find import DenseSplits
from ..dense_data.orientation import OrientedOrder
from ..dense_data.pipelines import Method
from ..dense_data.reading import upright_size
from ..dense_data.records import AnnotatedImage
from ..training.image_reading import UnreadableImages, plain_errors
from ..training.loaders import TrainingData
from ..training.sampling import shuffled_order
from .samples import (
    ReadableTraining,
    Validated,
    ValidationSamples,
    collate_each,
    collate_training,
)

__all__ = ["DenseData"]


class DenseData(TrainingData):
    """Both splits of an annotated set.

    Images that cannot be read are named and left out: for training the next one stands in, a
    validation counts without them. More than one, and more than 0.1 % of a split, are an error.

    Parameters
    ----------
    splits : DenseSplits
        What was read.
    method : Method
        What samples go through.
    batch_size, workers, seed : int
        As for `TrainingData`.
    batches_per_part : int | None
        Training batches of an epoch on each process, out of an endless stream of images; None for
        an epoch of all of them, some twice where they fill no batch.

    Raises
    ------
    ValueError
        There is no image to train or to validate on.
    """

    def __init__(
        self,
        splits: DenseSplits,
        method: Method,
        batch_size: int,
        workers: int,
        seed: int,
        batches_per_part: int | None = None,
    ) -> None:
        super().__init__(batch_size, workers, seed)
        self.splits = splits
        self.method = method
        self.train_images = images_to_train_on(splits.train, method)
        self.val_images = list(splits.val.images)
        self.train_set: Any = self.train_images
        self.val_set: Any = self.val_images
        for name, images in (("train", self.train_images), ("val", self.val_images)):
            if not images:
                raise ValueError(f"--data: got no image with an object in split {name}, needs one")
        self.num_classes = splits.train.num_classes
        self.class_names = splits.train.class_names
        self.collate_training = partial(
            collate_training, divisor=method.training_divisor, least_side=method.least_side
        )
        self.collate_validation = partial(collate_each, divisor=method.test_divisor)
        self._part = batches_per_part
        self._is_wide: list[bool] | None = None
        self._unreadable = {
            "training": UnreadableImages(self.train_images, "training"),
            "validation": UnreadableImages(self.val_images, "validation"),
        }

    @property
    def validation_batch_size(self) -> int:
        """One image: others would change its padding."""
        return 1

    @property
    def epoch_length(self) -> int:
        """Samples of an epoch, over all processes: whole batches."""
        step = self.batch_size * self._ranks
        if self._part is not None:
            return self._part * step
        if self.method.one_orientation:
            return len(self._oriented())
        return -(-len(self.train_images) // step) * step

    def order(self, epoch: int) -> Tensor:
        """Return the indices of the images of `epoch`, int64 [epoch_length]."""
        length, images = self.epoch_length, len(self.train_images)
        if self._part is not None:
            first, last = epoch * length, (epoch + 1) * length
            passes = range(first // images, -(-last // images))
            stream = torch.cat([shuffled_order(images, self.seed, each) for each in passes])
            begin = first - passes.start * images
            return stream[begin : begin + length]
        if self.method.one_orientation:
            return self._oriented()(epoch)
        shuffled = shuffled_order(images, self.seed, epoch)
        return shuffled.repeat(-(-length // images))[:length]

    def training_samples(self) -> Dataset[Any]:
        """Augmented samples by their position in the run."""
        assert self.num_classes is not None
        samples = TrainingSamples(self.train_images, self.method, self.seed, self.num_classes)
        return ReadableTraining(samples, self.train_images)

    def validation_samples(self) -> Dataset[Any]:
        """Images as they are tested, by number."""
        assert self.num_classes is not None
        samples = TestSamples(self.val_images, self.method)
        return ValidationSamples(samples, self.val_images, self.num_classes)

    def train_batches(self, epoch: int, first: int = 0) -> Iterator[Any]:
        """Iterate over an epoch from batch `first` on, as the loader gives it."""
        return plain_errors(super().train_batches(epoch, first))

    def val_batches(self) -> Iterator[Any]:
        """Iterate over this process's validation images, as the loader gives it."""
        return plain_errors(super().val_batches())

    def training_batch(self, loaded: Any) -> Any:
        """Name the images that others stand in for."""
        batch, stand_ins = loaded
        self._report("training", stand_ins)
        return batch

    def validation_batch(self, loaded: Any) -> Any:
        """Name what cannot be read."""
        validated, stand_ins = loaded
        self._report("validation", stand_ins)
        return validated

    def count(self, batch: DenseBatch | Validated) -> int:
        """Return the images of a batch."""
        return len(batch) if isinstance(batch, DenseBatch) else 1

    def drawn(self, batch: Any) -> tuple[Any, ...]:
        """Return the batch: nothing is mixed."""
        return (batch,)

    def mix(self, batch: Any, *_: Any) -> Any:
        """Return the batch."""
        return batch

    def validation_name(self, index: int) -> str:
        """Return the path of a validation image."""
        return self.val_images[index].path

    def _oriented(self) -> OrientedOrder:
        if self._is_wide is None:
            self._is_wide = [_is_wide(image) for image in self.train_images]
        return OrientedOrder(self._is_wide, self.seed, self.batch_size, self._ranks)

    def _report(self, what: str, stand_ins: list[str]) -> None:
        for name in self._unreadable[what].note(stand_ins):
            text = f"left out, since it cannot be read: {escaped(name)}"
            print(text, file=sys.stderr, flush=True)


def _is_wide(image: AnnotatedImage) -> bool:
    try:
        height, width = image.size or upright_size(image.path)
    except ValueError:  # it will be said when it is to be read
        return True
    return width > height
