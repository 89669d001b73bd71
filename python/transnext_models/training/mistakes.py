"""What a trained model gets wrong on the validation images: confusion and the worst images."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from .loaders import TrainingData
from .module import logits_of

__all__ = ["Answered", "Mistake", "Mistakes", "WorstImages", "answered", "find_mistakes"]

WORST = 16


@dataclass(frozen=True)
class Mistake:
    """An image with a large loss.

    Attributes
    ----------
    image : Tensor
        As the model got it, float32 [3, H, W] on the CPU.
    labels, answers : tuple[int, ...]
        The classes that it has, and that the model gives it; one each, but for images with several
        labels.
    loss : float
        Of the image.
    name : str
        Of the image's file, "" where that is not known.
    """

    image: Tensor
    labels: tuple[int, ...]
    answers: tuple[int, ...]
    loss: float
    name: str


@dataclass(frozen=True)
class Answered:
    """A batch of validation images: float32 logits [B, classes], labels, and the images' names."""

    images: Tensor
    labels: Tensor
    logits: Tensor
    names: list[str]


def answered(model: nn.Module, data: TrainingData, fabric: Fabric) -> Iterator[Answered]:
    """Evaluate a model on the validation images of this process, batch by batch.

    Parameters
    ----------
    model : nn.Module
        On the device of `fabric`, in evaluation mode.
    """
    position = 0
    for loaded in data.val_batches():
        size = len(loaded[0])
        images, labels = fabric.to_device(data.validation_batch(loaded))
        # Where an image could not be read, the rest have moved up.
        names = [data.validation_name(position + i) for i in range(size)]
        names = names if len(labels) == size else [""] * len(labels)
        position += size
        if len(labels):
            yield Answered(images, labels, logits_of(model, images, fabric).float(), names)


class WorstImages:
    """Keeps the images with the largest losses."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Mistake]] = []
        self._order = itertools.count()

    def add(
        self,
        batch: Answered,
        losses: Tensor,
        labels: Sequence[tuple[int, ...]],
        answers: Sequence[tuple[int, ...]],
    ) -> None:
        """Take the worst of a batch, by losses float64 [B] on the CPU."""
        for place in losses.topk(min(WORST, len(losses))).indices.tolist():
            loss = float(losses[place])
            if len(self._heap) == WORST and loss <= self._heap[0][0]:
                break
            image = batch.images[place].float().cpu()
            found = Mistake(image, labels[place], answers[place], loss, batch.names[place])
            push = heapq.heappush if len(self._heap) < WORST else heapq.heapreplace
            push(self._heap, (loss, -next(self._order), found))

    def in_order(self) -> list[Mistake]:
        """Return them, the largest loss first."""
        ordered = sorted(self._heap, key=lambda entry: entry[:2], reverse=True)
        return [found for _, _, found in ordered]


@dataclass
class Mistakes:
    """Of a model on all validation images, each of one class.

    Attributes
    ----------
    confusion : Tensor
        int64 [classes, classes]: images of the class (row) that were taken for another (column).
    worst : list[Mistake]
        The images with the largest losses, largest first.
    """

    confusion: Tensor
    worst: list[Mistake] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Images that were looked at."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.confusion.diagonal().sum() / max(self.images, 1))

    def of_classes(self) -> list[float | None]:
        """Return the share of right answers of each class; None of one without images."""
        counts = self.confusion.sum(dim=1).tolist()
        right = self.confusion.diagonal().tolist()
        return [r / n if n else None for r, n in zip(right, counts, strict=True)]

    def most_frequent(self, count: int) -> list[tuple[int, int, int]]:
        """Return the most frequent confusions: class, what it was taken for, and how often."""
        others = self.confusion.clone()
        others.fill_diagonal_(0)
        flat = others.flatten()
        found = flat.topk(min(count, len(flat)))
        return [
            (index // len(others), index % len(others), number)
            for number, index in zip(found.values.tolist(), found.indices.tolist(), strict=True)
            if number
        ]


def find_mistakes(
    model: nn.Module, data: TrainingData, fabric: Fabric, num_classes: int
) -> Mistakes:
    """Evaluate a model on the validation images of this process; see `answered`."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    mistakes = Mistakes(torch.zeros(num_classes, num_classes, dtype=torch.int64))
    worst = WorstImages()
    for batch in answered(model, data, fabric):
        answers = batch.logits.argmax(dim=1)
        mistakes.confusion += multiclass_confusion_matrix(answers, batch.labels, num_classes).cpu()
        losses = F.cross_entropy(batch.logits, batch.labels, reduction="none").double().cpu()
        worst.add(batch, losses, _each(batch.labels), _each(answers))
    mistakes.worst = worst.in_order()
    return mistakes


def _each(classes: Tensor) -> list[tuple[int, ...]]:
    return [(value,) for value in classes.tolist()]
