"""Natural images through timm: folders in ImageNet's layout, and data sets by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ..classification.preprocess import Preprocess
from ..images import visible_classes
from .augmentation import image_augmentation
from .image_reading import READABLE, TrainingImages, UnreadableImages, ValidationImages
from .loaders import Batch, TrainingData
from .recipes import Recipe
from .sampling import repeated_order

__all__ = ["ImageData"]

_VALIDATION_FOLDERS = ("val", "validation")


class ImageData(TrainingData):
    """Labelled images: a folder in ImageNet's layout, or any map-style data set that timm creates.

    Parameters
    ----------
    source : str
        A folder holding `train` and `val` (or `validation`), each with a folder per class; or a
        name for `timm.data.create_dataset`, such as `torch/cifar10` or `hfds/imagenet-1k`.
    root : Path | None
        Where a named data set is kept.
    recipe : Recipe
        Its augmentation is used.
    preprocess : Preprocess
        Of validation images; its size, mean and standard deviation are those of training images
        too.

    Raises
    ------
    ValueError
        The folder, a split or a class is missing, or the data can only be streamed.
    """

    def __init__(
        self,
        source: str,
        recipe: Recipe,
        preprocess: Preprocess,
        batch_size: int,
        workers: int,
        seed: int,
        root: Path | None = None,
    ) -> None:
        super().__init__(batch_size, workers, seed)
        if recipe.augmentation is None:
            raise ValueError(
                f"recipe {recipe.name!r} has no augmentation for images: choose an imagenet recipe"
            )
        self.augmentation = recipe.augmentation
        self.label_smoothing = recipe.label_smoothing
        self.train_set = _create_dataset(source, root, "train")
        self.val_set = _create_dataset(source, root, "validation")
        train_classes, val_classes = _class_names(self.train_set), _class_names(self.val_set)
        if train_classes != val_classes:
            differing = sorted(set(train_classes or ()) ^ set(val_classes or ()))
            raise ValueError(
                f"--data {source}: training and validation differ in their classes, "
                f"first of all {differing[:5]}"
            )
        self.num_classes = None if train_classes is None else len(train_classes)
        self.class_names = train_classes
        self.train_set.transform = image_augmentation(  # type: ignore[attr-defined]
            recipe.augmentation, preprocess
        )
        self.val_set.transform = preprocess  # type: ignore[attr-defined]
        self.mixup: Any = None
        self._unreadable = {
            "training": UnreadableImages(self.train_set, "training"),
            "validation": UnreadableImages(self.val_set, "validation"),
        }

    def enable_mixup(self, num_classes: int) -> None:
        """Mix the images of each training batch as the recipe says.

        Raises
        ------
        ValueError
            The batch size is odd (timm mixes a batch with its own reverse).
        """
        from timm.data import Mixup

        augmentation = self.augmentation
        if augmentation.mixup == 0 and augmentation.cutmix == 0:
            return
        if self.batch_size % 2:
            raise ValueError(f"--batch-size: got {self.batch_size}, needs an even number for mixup")
        self.mixup = Mixup(
            mixup_alpha=augmentation.mixup,
            cutmix_alpha=augmentation.cutmix,
            switch_prob=augmentation.mixup_switch,
            label_smoothing=self.label_smoothing,
            num_classes=num_classes,
        )

    @property
    def epoch_length(self) -> int:
        """Images of an epoch: of repeated augmentation, cut to a multiple of 256."""
        length = super().epoch_length
        repeated = self.augmentation.repeats > 1 and length >= 256
        return length // 256 * 256 if repeated else length

    def order(self, epoch: int) -> Tensor:
        """Return the indices of the images of `epoch`, int64 [epoch_length]."""
        if self.augmentation.repeats == 1:
            return super().order(epoch)
        return repeated_order(super().epoch_length, self.augmentation.repeats, epoch)

    def training_samples(self) -> Dataset[Any]:
        """Augmented images by their position in the run."""
        return TrainingImages(self.train_set, self.seed)

    def validation_samples(self) -> Dataset[Any]:
        """Preprocessed images by their number."""
        return ValidationImages(self.val_set)

    def training_batch(self, loaded: Any) -> Batch:
        """Name the images that others stand in for."""
        images, labels, stand_ins = loaded
        self._report("training", stand_ins)
        return images, labels

    def validation_batch(self, loaded: Any) -> Batch:
        """Leave out the images that others stand in for."""
        images, labels, stand_ins = loaded
        self._report("validation", stand_ins)
        read = stand_ins == READABLE
        return images[read], labels[read]

    def mix(self, images: Tensor, labels: Tensor) -> Batch:
        """Mix training images; int64 labels [B] become soft targets [B, classes]."""
        if self.mixup is None:
            return images, labels
        mixed: Batch = self.mixup(images, labels)
        return mixed

    def _report(self, what: str, stand_ins: Tensor) -> None:
        for name in self._unreadable[what].note(stand_ins.tolist()):
            print(f"left out, since it cannot be read: {name}", file=sys.stderr, flush=True)


def _create_dataset(source: str, root: Path | None, split: str) -> Dataset[Any]:
    """Create one split of an image data set; ValueError naming --data where that fails."""
    from timm.data import create_dataset

    folder = Path(source)
    if folder.is_dir():
        names = ("train",) if split == "train" else _VALIDATION_FOLDERS
        found = [folder / name for name in names if (folder / name).is_dir()]
        if not found:
            needed = " or ".join(f"{name}/<class>/<image>" for name in names)
            raise ValueError(f"--data: got {source}, which has no {split} images, needs {needed}")
        name, root = "", found[0]
    elif source.partition("/")[0] in {"torch", "hfds"} and "/" in source:
        name = source
    else:
        raise ValueError(
            f"--data {source} is neither a folder nor a data set of timm: give a folder with "
            "train/ and val/, `digits`, or a name such as torch/cifar10 or hfds/imagenet-1k"
        )
    try:
        dataset = create_dataset(name, root=None if root is None else str(root), split=split)
    except Exception as error:  # whatever the library behind the name raises
        raise ValueError(f"--data {source}: the {split} images cannot be read: {error}") from error
    if name == "":  # timm takes .ipynb_checkpoints and its like for classes
        reader = dataset.reader
        reader.samples, reader.class_to_idx = visible_classes(
            reader.samples, reader.class_to_idx, str(root)
        )
        if not reader.samples:
            raise ValueError(f"--data {source}: all {split} images are hidden")
    if isinstance(dataset, IterableDataset):
        raise ValueError(
            f"--data: got {source}, which can only be streamed, needs a data set with random access"
        )
    return dataset


def _class_names(dataset: Any) -> list[str] | None:
    """Names of the classes in label order, None where the data set does not know them."""
    mapping = getattr(getattr(dataset, "reader", dataset), "class_to_idx", None)
    return sorted(mapping, key=mapping.__getitem__) if mapping else None
