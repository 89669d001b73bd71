"""Data modules for Lightning: what all share, and natural images through timm.

They give Lightning a training loader whose order depends on the seed, the epoch and the rank only,
so that a resumed run continues as an uninterrupted one would, and a validation loader of
preprocessed images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from ..images import visible_classes
from ..preprocess import Preprocess
from .recipes import Recipe

__all__ = ["ImageData", "TrainingData", "epoch_seed"]

_VALIDATION_FOLDERS = ("val", "validation")


def epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """Return the seed of one epoch on one process: uint32, unlike those of its neighbours."""
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])


class TrainingData(pl.LightningDataModule):
    """What `ImageData` and `DigitData` share: loaders and their samplers.

    Parameters
    ----------
    batch_size : images per device and step.
    workers : loading processes per device; 0 loads in the training process.
    seed : decides the order of the images.

    Attributes
    ----------
    num_classes : classes of the data; None where the data set does not say.
    train_set, val_set : map-style data sets.
    """

    train_set: Dataset[Any]
    val_set: Dataset[Any]
    num_classes: int | None

    def __init__(self, batch_size: int, workers: int, seed: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.workers = workers
        self.seed = seed

    def _shard(self) -> tuple[int, int]:
        """Number of processes and the index of this one."""
        if self.trainer is None:
            return 1, 0
        return self.trainer.world_size, self.trainer.global_rank

    def _sampler(self, train: bool) -> torch.utils.data.Sampler[int]:
        replicas, rank = self._shard()
        dataset = self.train_set if train else self.val_set
        return DistributedSampler(dataset, replicas, rank, shuffle=train, seed=self.seed)

    def _loader(self, train: bool) -> DataLoader[Any]:
        sampler = self._sampler(train)
        generator = torch.Generator()
        if train and self.trainer is not None:
            self.check_length()
            # Workers draw order and seeds as soon as they start, before the epoch's hooks run.
            epoch = self.trainer.current_epoch
            sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            generator.manual_seed(epoch_seed(self.seed, epoch, self.trainer.global_rank))
        return DataLoader(
            self.train_set if train else self.val_set,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            drop_last=train,
            generator=generator,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of one epoch; the last batch is dropped unless it is full."""
        return self._loader(train=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation loader; several devices repeat images to have equal shares."""
        return self._loader(train=False)

    def check_length(self) -> None:
        """Raise ValueError where the training images do not fill one batch."""
        length = len(self.train_set)  # type: ignore[arg-type]
        needed = self.batch_size * self._shard()[0]
        if length < needed:
            raise ValueError(
                f"--data has {length} training images, fewer than one batch of {needed}: "
                "lower --batch-size"
            )


class ImageData(TrainingData):
    """Labelled images: a folder in ImageNet's layout, or any map-style data set that timm creates.

    Parameters
    ----------
    source : a folder holding `train` and `val` (or `validation`), each with a folder per class; or
        a name for `timm.data.create_dataset`, such as `torch/cifar10` or `hfds/imagenet-1k`.
    root : where a named data set is kept.
    recipe : says the augmentation.
    preprocess : of validation images; its size, mean and standard deviation are those of training
        images too.

    Raises
    ------
    ValueError : the folder, a split or a class is missing, or the data can only be streamed.
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
        self.train_set.transform = self._augmentation(preprocess)  # type: ignore[attr-defined]
        self.val_set.transform = preprocess  # type: ignore[attr-defined]
        self.mixup: Any = None

    def _augmentation(self, preprocess: Preprocess) -> Any:
        from timm.data import create_transform

        augmentation = self.augmentation
        return create_transform(
            input_size=preprocess.size,
            is_training=True,
            color_jitter=augmentation.color_jitter,
            auto_augment=augmentation.auto_augment,
            interpolation=augmentation.interpolation,
            re_prob=augmentation.random_erase,
            re_mode=augmentation.random_erase_mode,
            re_count=1,
            mean=tuple(preprocess.mean),
            std=tuple(preprocess.std),
        )

    def enable_mixup(self, num_classes: int) -> None:
        """Mix the images of each training batch as the recipe says.

        Raises
        ------
        ValueError : the batch size is odd (timm mixes a batch with its own reverse).
        """
        from timm.data import Mixup

        augmentation = self.augmentation
        if augmentation.mixup == 0 and augmentation.cutmix == 0:
            return
        if self.batch_size % 2:
            raise ValueError(f"--batch-size must be even for mixup, got {self.batch_size}")
        self.mixup = Mixup(
            mixup_alpha=augmentation.mixup,
            cutmix_alpha=augmentation.cutmix,
            switch_prob=augmentation.mixup_switch,
            label_smoothing=self.label_smoothing,
            num_classes=num_classes,
        )

    def _sampler(self, train: bool) -> torch.utils.data.Sampler[int]:
        if not train or self.augmentation.repeats == 1:
            return super()._sampler(train)
        from timm.data.distributed_sampler import RepeatAugSampler

        replicas, rank = self._shard()
        # The published sampler cuts an epoch to a multiple of 256 images; a smaller data set has
        # none.
        length = len(self.train_set)  # type: ignore[arg-type]
        return RepeatAugSampler(
            self.train_set,
            num_replicas=replicas,
            rank=rank,
            num_repeats=self.augmentation.repeats,
            selected_round=256 if length >= 256 else 0,
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Mix training batches on the training device: int64 labels [B] become soft targets [B,
        classes]."""
        images, labels = batch
        if self.mixup is not None and self.trainer is not None and self.trainer.training:
            return self.mixup(images, labels)
        return images, labels


def _create_dataset(source: str, root: Path | None, split: str) -> Dataset[Any]:
    """Create one split of an image data set; ValueError naming --data where that fails."""
    from timm.data import create_dataset

    folder = Path(source)
    if folder.is_dir():
        names = ("train",) if split == "train" else _VALIDATION_FOLDERS
        found = [folder / name for name in names if (folder / name).is_dir()]
        if not found:
            needed = " or ".join(f"{name}/<class>/<image>" for name in names)
            raise ValueError(f"--data {source} has no {split} images: {needed} is needed inside it")
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
            f"--data {source} can only be streamed; a data set with random access is needed"
        )
    return dataset


def _class_names(dataset: Any) -> list[str] | None:
    """Names of the classes in label order, None where the data set does not know them."""
    mapping = getattr(getattr(dataset, "reader", dataset), "class_to_idx", None)
    return sorted(mapping, key=mapping.__getitem__) if mapping else None
