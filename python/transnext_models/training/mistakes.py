"""What a trained model gets wrong on the validation images: confusion and the worst images."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from .loaders import TrainingData
from .module import logits_of

__all__ = ["Mistake", "Mistakes", "find_mistakes"]

WORST = 16


@dataclass(frozen=True)
class Mistake:
    """An image with a large loss.

    Attributes
    ----------
    image : Tensor
        As the model got it, float32 [3, H, W] on the CPU.
    label, answer : int
        The right class and the model's.
    probability : float
        That the model gives to the right class.
    loss : float
        Its negative logarithm.
    name : str
        Of the image's file, "" where that is not known.
    """

    image: Tensor
    label: int
    answer: int
    probability: float
    loss: float
    name: str


@dataclass
class Mistakes:
    """Of a model on all validation images.

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
    """Evaluate a model on the validation images of this process.

    Parameters
    ----------
    model : nn.Module
        On the device of `fabric`, in evaluation mode.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    mistakes = Mistakes(torch.zeros(num_classes, num_classes, dtype=torch.int64))
    worst: list[tuple[float, int, Mistake]] = []
    order = itertools.count()
    position = 0
    for loaded in data.val_batches():
        size = len(loaded[0])
        images, labels = fabric.to_device(data.validation_batch(loaded))
        # Where an image could not be read, the rest have moved up.
        names = [data.validation_name(position + i) for i in range(size)]
        names = names if len(labels) == size else [""] * len(labels)
        position += size
        if not len(labels):
            continue
        logits = logits_of(model, images, fabric).float()
        answers = logits.argmax(dim=1)
        mistakes.confusion += multiclass_confusion_matrix(answers, labels, num_classes).cpu()
        losses = F.cross_entropy(logits, labels, reduction="none").double().cpu()
        for place in losses.topk(min(WORST, len(losses))).indices.tolist():
            loss = float(losses[place])
            if len(worst) == WORST and loss <= worst[0][0]:
                break
            found = Mistake(
                images[place].float().cpu(),
                int(labels[place]),
                int(answers[place]),
                float((-losses[place]).exp()),
                loss,
                names[place],
            )
            push = heapq.heappush if len(worst) < WORST else heapq.heapreplace
            push(worst, (loss, -next(order), found))
    mistakes.worst = [found for _, _, found in sorted(worst, key=lambda x: x[:2], reverse=True)]
    return mistakes
