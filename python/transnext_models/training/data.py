"""Natural images, wherever they lie, augmented as recipes say."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..checkpoints.errors import escaped
from ..classification.preprocess import Preprocess
from .augmentation import image_augmentation
from .image_reading import (
    READABLE,
    TrainingImages,
    UnreadableImages,
    ValidationImages,
    plain_errors,
)
from .loaders import Batch, TrainingData
from .mixing import BatchMixer
from .recipes import Recipe
from .sampling import repeated_order
from .sources import ImageSet, ShardStream, open_splits
from .sources.streams import StreamedTraining, StreamedValidation

__all__ = ["ImageData"]


class ImageData(TrainingData):
    """Labelled images of a source, to train on and to validate on.

    Parameters
    ----------
    source, source_val : str, str | None
        What `sources.find` says: a folder, a CSV file, shards, or the name of a data set; and
        where the images for validation are, if not there.
    recipe : Recipe
        Its augmentation is used.
    preprocess : Preprocess
        Of validation images; its size, mean and standard deviation are those of training images
        too.
    batch_size, workers, seed : int
        As for `TrainingData`.
    root : Path | None
        Where a named data set is kept, and what relative paths in a CSV file start from.
    lengths : tuple[int | None, int | None]
        Images of an epoch and of a validation, of shards that can only be read in order.

    Attributes
    ----------
    class_names : tuple[str, ...] | None
        In the order of the labels, where the source has names.
    has_several_labels : bool
        Whether labels are float32 [B, classes] of zeros and ones rather than int64 [B].

    Raises
    ------
    ValueError
        Images, a split or a class are missing, or not where they belong.
    RuntimeError
        A package that the source takes is missing.
    """

    train_set: ImageSet | ShardStream
    val_set: ImageSet | ShardStream

    def __init__(
        self,
        source: str,
        recipe: Recipe,
        preprocess: Preprocess,
        batch_size: int,
        workers: int,
        seed: int,
        root: Path | None = None,
        source_val: str | None = None,
        lengths: tuple[int | None, int | None] = (None, None),
    ) -> None:
        super().__init__(batch_size, workers, seed)
        if recipe.augmentation is None:
            raise ValueError(
                f"recipe {recipe.name!r} has no augmentation for images: choose an imagenet recipe"
            )
        self.augmentation = recipe.augmentation
        self.label_smoothing = recipe.label_smoothing
        splits = open_splits(source, val=source_val, root=root, lengths=lengths)
        self.train_set, self.val_set = splits.train, splits.val
        self.num_classes = self.train_set.num_classes
        self.class_names = self.train_set.class_names
        self.has_several_labels = self.train_set.has_several_labels
        self.train_set.transform = image_augmentation(recipe.augmentation, preprocess)
        if recipe.decoder == "scaled":
            self.train_set.crop_size = preprocess.size
        self.val_set.transform = preprocess
        self.mixer: BatchMixer | None = None
        self._label_bound: int | None = None
        self._unreadable = {
            "training": UnreadableImages(self.train_set, "training"),
            "validation": UnreadableImages(self.val_set, "validation"),
        }

    def enable_mixup(self, num_classes: int) -> None:
        """Mix the images of each training batch as the recipe says.

        Raises
        ------
        ValueError
            The batch size is odd (a batch is mixed with its own reverse), a label is none of so
            many classes, or images have several labels.
        """
        self.check_labels(num_classes)
        augmentation = self.augmentation
        if augmentation.mixup == 0 and augmentation.cutmix == 0:
            return
        if self.has_several_labels:
            raise ValueError(
                "--data: got mixup of images with several labels, needs a recipe without mixup"
            )
        if self.batch_size % 2:
            raise ValueError(f"--batch-size: got {self.batch_size}, needs an even number for mixup")
        self.mixer = BatchMixer(
            mixup=augmentation.mixup,
            cutmix=augmentation.cutmix,
            switch=augmentation.mixup_switch,
            smoothing=self.label_smoothing,
            num_classes=num_classes,
        )

    def check_labels(self, num_classes: int) -> None:
        """Raise ValueError where a label is none of `num_classes`, as far as labels are known."""
        for split in (self.train_set, self.val_set):
            if not isinstance(split, ImageSet) or split.labels is None:
                continue
            labels = split.labels
            if labels.ndim == 1 and labels.max() >= num_classes:
                raise ValueError(
                    f"--num-classes: got {num_classes}, needs at least {labels.max() + 1}, since "
                    f"{split.name(int(np.argmax(labels)))} has the label {labels.max()}"
                )
        self._label_bound = num_classes

    @property
    def unreadable(self) -> dict[str, int]:
        """How many images of each split this process has found unreadable."""
        return {what: len(found) for what, found in self._unreadable.items()}

    @property
    def epoch_length(self) -> int:
        """Images of an epoch: of repeated augmentation, cut to a multiple of 256."""
        length = super().epoch_length
        repeated = self.augmentation.repeats > 1 and length >= 256
        return length // 256 * 256 if repeated else length

    def order(self, epoch: int) -> Tensor:
        """Return the indices of the images of `epoch`, int64 [epoch_length]; a stream has none."""
        if isinstance(self.train_set, ShardStream):
            return torch.arange(self.epoch_length)
        if self.augmentation.repeats == 1:
            return super().order(epoch)
        return repeated_order(super().epoch_length, self.augmentation.repeats, epoch)

    def training_samples(self) -> Dataset[Any]:
        """Augmented images by their position in the run."""
        if isinstance(self.train_set, ShardStream):
            self.train_set.check_ranks(self._ranks)
            return StreamedTraining(
                self.train_set,
                self.seed,
                self.batch_size,
                self._rank,
                self._ranks,
                self.augmentation.repeats,
            )
        return TrainingImages(self.train_set, self.seed)

    def validation_samples(self) -> Dataset[Any]:
        """Preprocessed images by their number, or in order."""
        if isinstance(self.val_set, ShardStream):
            return StreamedValidation(self.val_set, self.batch_size, self._rank, self._ranks)
        return ValidationImages(self.val_set)

    def train_batches(self, epoch: int, first: int = 0) -> Iterator[Any]:
        """Iterate over an epoch from batch `first` on, as the loader gives it."""
        return plain_errors(super().train_batches(epoch, first))

    def val_batches(self) -> Iterator[Any]:
        """Iterate over this process's validation images, as the loader gives it."""
        if not isinstance(self.val_set, ShardStream):
            return plain_errors(super().val_batches())
        batches = self.validation_samples()
        assert isinstance(batches, StreamedValidation)
        options = {**self._loading(), "num_workers": batches.workers(self.workers)}
        loader: DataLoader[Any] = DataLoader(batches, batch_size=None, **options)
        return itertools.islice(self._with_images(plain_errors(iter(loader))), self._limits[1])

    def _with_images(self, loader: Iterator[Any]) -> Iterator[Any]:
        """Leave out batches of which no image can be read."""
        for images, labels, unreadable in loader:
            self._report("validation", unreadable)
            if images is not None:
                yield images, labels, []

    def training_batch(self, loaded: Any) -> Batch:
        """Name the images that others stand in for."""
        images, labels, stand_ins = loaded
        self._report("training", stand_ins)
        if isinstance(self.train_set, ShardStream):
            self._check_streamed(labels)
        return images, labels

    def validation_batch(self, loaded: Any) -> Batch:
        """Leave out the images that others stand in for."""
        images, labels, stand_ins = loaded
        if isinstance(self.val_set, ShardStream):
            self._check_streamed(labels)
            return images, labels
        self._report("validation", stand_ins)
        read = [name == READABLE for name in stand_ins]
        return images[read], labels[read]

    def mixing_numbers(self, images: Tensor) -> tuple[Tensor, ...]:
        """Draw mixup's and CutMix's numbers for a batch."""
        return () if self.mixer is None else (self.mixer.draw(*images.shape[-2:]),)

    def mix(self, images: Tensor, labels: Tensor, *numbers: Tensor) -> Batch:
        """Mix training images; labels become soft targets [B, classes]."""
        if self.mixer is None:
            return images, labels
        return self.mixer(images, labels, *numbers)

    def _check_streamed(self, labels: Tensor) -> None:
        if self._label_bound is not None and int(labels.max()) >= self._label_bound:
            raise RuntimeError(
                f"--num-classes: got {self._label_bound}, needs more, since an image has the label "
                f"{int(labels.max())}"
            )

    def _report(self, what: str, stand_ins: list[str]) -> None:
        for name in self._unreadable[what].note(stand_ins):
            text = f"left out, since it cannot be read: {escaped(name)}"
            print(text, file=sys.stderr, flush=True)
