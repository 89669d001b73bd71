"""Batches for a training run: of any epoch from any batch on, and of a validation.

Their order and their random numbers depend on the seed, the epoch and the position in it only (see
`sampling` and `random_numbers`), so that an interrupted run goes on as it would have.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .sampling import EpochBatches, Shard, shuffled_order

__all__ = ["Batch", "TrainingData"]

VALIDATION_BATCH = 1.5
"""Images of a validation batch over those of a training batch, as published."""

Batch = tuple[Tensor, Tensor]
"""Images float32 [B, 3, H, W], and int64 labels [B] or soft targets float32 [B, classes]."""


class TrainingData:
    """What `ImageData` and `DigitData` share: loaders, and the samplers that feed them.

    Parameters
    ----------
    batch_size : int
        Images per device and step.
    workers : int
        Loading processes per device; 0 loads in the training process.
    seed : int
        Decides the order of the images, and what is random about them.

    Attributes
    ----------
    num_classes : int | None
        Classes of the data; None where the data set does not say.
    class_names : Sequence[str] | None
        Their names in the order of the labels; None where the data set does not say.
    has_several_labels : bool
        Whether an image can be of several classes: labels then are float32 [B, classes] of zeros
        and ones.
    train_set, val_set : Dataset[Any]
        Map-style data sets.
    collate_training, collate_validation : Callable[[Any], Any] | None
        Put the samples of a batch together; None is torch's own way.
    """

    train_set: Dataset[Any]
    val_set: Dataset[Any]
    num_classes: int | None
    class_names: Sequence[str] | None = None
    has_several_labels: bool = False
    collate_training: Callable[[Any], Any] | None = None
    collate_validation: Callable[[Any], Any] | None = None

    def __init__(self, batch_size: int, workers: int, seed: int) -> None:
        self.batch_size = batch_size
        self.workers = workers
        self.seed = seed
        self._rank, self._ranks = 0, 1
        self._limits: tuple[int | None, int | None] = (None, None)
        self._batches: EpochBatches | None = None
        self._loader: DataLoader[Any] | None = None

    # -- what a data set decides ------------------------------------------------------------------

    @property
    def epoch_length(self) -> int:
        """Samples of an epoch, over all processes."""
        return len(self.train_set)  # type: ignore[arg-type]

    def order(self, epoch: int) -> Tensor:
        """Return the indices of the images of `epoch`, int64 [epoch_length]."""
        return shuffled_order(self.epoch_length, self.seed, epoch)

    def training_samples(self) -> Dataset[Any]:
        """Return the data set that takes a `Sample`."""
        raise NotImplementedError

    def validation_samples(self) -> Dataset[Any]:
        """Return the data set that takes the number of an image."""
        raise NotImplementedError

    def training_batch(self, loaded: Any) -> Batch:
        """Finish what the loader gives for training, before it moves to the device."""
        raise NotImplementedError

    def validation_batch(self, loaded: Any) -> Batch:
        """Finish what the loader gives for validation, before it moves to the device."""
        raise NotImplementedError

    def count(self, batch: Any) -> int:
        """Return the images of a batch that is finished."""
        return len(batch[0])

    def drawn(self, batch: Any) -> tuple[Any, ...]:
        """Return what of a training batch goes to the device, for `mix` to take."""
        return (*batch, *self.mixing_numbers(batch[0]))

    def mixing_numbers(self, images: Tensor) -> tuple[Tensor, ...]:
        """Draw what `mix` takes beside the images, on the host: nothing where it does not mix."""
        return ()

    def mix(self, images: Tensor, labels: Tensor, *numbers: Tensor) -> Batch:
        """Mix the images of a training batch on the training device, where the recipe does."""
        return images, labels

    def training_labels(self) -> list[int] | None:
        """Return the label of every training image, None where only the images tell."""
        if self.has_several_labels:
            return None
        labels = getattr(self.train_set, "labels", None)
        if labels is None:
            labels = getattr(self.train_set, "targets", None)  # torchvision's
        return None if labels is None else [int(label) for label in labels]

    def validation_name(self, index: int) -> str:
        """Return the name of a validation image, "" where the data set has none."""
        name = getattr(self.val_set, "name", None)
        with contextlib.suppress(Exception):  # a name is a courtesy, whatever the data set is
            return "" if name is None else str(name(index))
        return ""

    # -- what a run asks for ----------------------------------------------------------------------

    def shard(
        self,
        rank: int,
        ranks: int,
        limit_train_batches: int | None = None,
        limit_val_batches: int | None = None,
    ) -> None:
        """Serve process `rank` of `ranks`; the limits cut an epoch and a validation short."""
        self._rank, self._ranks = rank, ranks
        self._limits = (limit_train_batches, limit_val_batches)
        self.close()

    @property
    def batches_per_epoch(self) -> int:
        """Training batches of an epoch on this process."""
        return len(self._epoch_batches())

    @property
    def validation_batch_size(self) -> int:
        """Images of a validation batch."""
        return int(VALIDATION_BATCH * self.batch_size)

    def batches_of_steps(self, accumulate: int) -> int:
        """Training batches of an epoch on this process that fill steps of so many batches."""
        return self.batches_per_epoch // accumulate * accumulate

    def train_batches(self, epoch: int, first: int = 0) -> Iterator[Any]:
        """Iterate over an epoch from batch `first` on, as the loader gives it.

        Loading processes start at the first call and stay for the epochs that follow.
        """
        batches = self._epoch_batches()
        if self._loader is None:
            self._loader = DataLoader(
                self.training_samples(),
                batch_sampler=batches,
                collate_fn=self.collate_training,
                persistent_workers=self.workers > 0,
                **self._loading(),
            )
        batches.start(epoch, first)
        return iter(self._loader)

    def val_batches(self) -> Iterator[Any]:
        """Iterate over this process's shard of the validation images, as the loader gives it."""
        length = len(self.val_set)  # type: ignore[arg-type]
        loader: DataLoader[Any] = DataLoader(
            self.validation_samples(),
            batch_size=self.validation_batch_size,
            collate_fn=self.collate_validation,
            sampler=Shard(length, self._rank, self._ranks),
            **self._loading(),
        )
        return itertools.islice(loader, self._limits[1])

    def close(self) -> None:
        """End the loading processes, also those of an iterator that a traceback still holds.

        They ignore SIGTERM, by which Python would end them at exit and then wait for them.
        """
        iterator = getattr(self._loader, "_iterator", None)
        if iterator is not None and self.workers > 0:
            iterator._shutdown_workers()
        self._loader = None
        self._batches = None

    def check_length(self, ranks: int = 1, accumulate: int = 1) -> None:
        """Raise ValueError where the training images do not fill one step of all processes."""
        length, needed = self.epoch_length, self.batch_size * ranks * accumulate
        if length < needed:
            several = "" if accumulate == 1 else " or --accumulate"
            raise ValueError(
                f"--data has {length} training images, fewer than one batch of {needed}: "
                f"lower --batch-size{several}"
            )

    def _epoch_batches(self) -> EpochBatches:
        if self._batches is None:
            self._batches = EpochBatches(
                self.order,
                self.epoch_length,
                self.batch_size,
                self._rank,
                self._ranks,
                self._limits[0],
            )
        return self._batches

    def _loading(self) -> dict[str, Any]:
        """Return what the loaders of training and validation have in common."""
        return {
            "num_workers": self.workers,
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": _ignore_signals,
            # Only seeds generators of loading processes, which nothing draws from.
            "generator": torch.Generator(),
        }


def _ignore_signals(worker: int) -> None:
    """Leave ctrl-C and SIGTERM, which reach every process of a job, to the training process.

    It still needs batches for the step that it finishes.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
