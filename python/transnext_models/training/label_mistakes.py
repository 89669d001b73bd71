"""What a trained model gets wrong where images have several labels: class by class."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from .loaders import TrainingData
from .mistakes import Mistake, WorstImages, answered

__all__ = ["ClassMeasures", "LabelMistakes", "find_label_mistakes"]


@dataclass(frozen=True)
class ClassMeasures:
    """How well images with a label are distinguished from those without.

    Attributes
    ----------
    images : int
        That have the label.
    average_precision : float | None
        Over all thresholds; None without such images.
    precision, recall, f1 : float | None
        Of the answers above one half; None where there are none to judge.
    """

    images: int
    average_precision: float | None
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass
class LabelMistakes:
    """Of a model on all validation images, each with any number of labels.

    Attributes
    ----------
    images : int
        That were looked at.
    classes : list[ClassMeasures]
        In the order of the labels.
    worst : list[Mistake]
        The images with the largest losses (means over the classes), largest first.
    """

    images: int
    classes: list[ClassMeasures]
    worst: list[Mistake] = field(default_factory=list)

    @property
    def mean_average_precision(self) -> float | None:
        """Mean over the classes that have images; None without any."""
        return _mean([each.average_precision for each in self.classes])

    @property
    def mean_f1(self) -> float | None:
        """Mean over the classes that have images or answers; None without any."""
        return _mean([each.f1 for each in self.classes])

    def weakest(self, most: int) -> list[tuple[int, ClassMeasures]]:
        """Return so many classes with their numbers, the lowest average precision first."""
        known = [(i, each) for i, each in enumerate(self.classes) if each.images]
        return sorted(known, key=lambda entry: entry[1].average_precision or 0.0)[:most]


def find_label_mistakes(
    model: nn.Module, data: TrainingData, fabric: Fabric, num_classes: int
) -> LabelMistakes:
    """Evaluate a model on the validation images of this process; see `mistakes.answered`."""
    worst = WorstImages()
    all_logits, all_labels = [torch.zeros(0, num_classes)], [torch.zeros(0, num_classes).bool()]
    for batch in answered(model, data, fabric):
        losses = F.binary_cross_entropy_with_logits(batch.logits, batch.labels, reduction="none")
        worst.add(
            batch,
            losses.double().mean(dim=1).cpu(),
            _classes(batch.labels > 0),
            _classes(batch.logits > 0),
        )
        all_logits.append(batch.logits.cpu())
        all_labels.append((batch.labels > 0).cpu())
    logits, labels = torch.cat(all_logits), torch.cat(all_labels)
    return LabelMistakes(len(labels), _measured(logits, labels), worst.in_order())


def _measured(logits: Tensor, labels: Tensor) -> list[ClassMeasures]:
    """Measure each class, of logits float32 and labels bool [images, classes]."""
    from torchmetrics.functional.classification import binary_average_precision

    measures = []
    for scores, has in zip(logits.double().sigmoid().T, labels.T, strict=True):
        answers = scores > 0.5
        right, answered_, images = (int(x.sum()) for x in (answers & has, answers, has))
        average = float(binary_average_precision(scores, has.int())) if images else math.nan
        measures.append(
            ClassMeasures(
                images,
                None if math.isnan(average) else average,
                right / answered_ if answered_ else None,
                right / images if images else None,
                2 * right / (answered_ + images) if answered_ + images else None,
            )
        )
    return measures


def _classes(has: Tensor) -> list[tuple[int, ...]]:
    return [tuple(row.nonzero().flatten().tolist()) for row in has.cpu()]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
