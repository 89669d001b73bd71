"""Weights of the classes in the loss: given, or such that every class counts the same.

A weight multiplies the loss of the images of its class. Where images have several labels, it is the
weight of the images that have the label, over those that have it not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .loaders import TrainingData

__all__ = ["class_weights"]

_BALANCED = "balanced"
_UNTOLD = "numbers: this data set tells no labels without its images"


def class_weights(text: str | None, data: TrainingData, num_classes: int) -> Tensor | None:
    """Return the weight of each class, float32 [num_classes]; None for None.

    Parameters
    ----------
    text : str | None
        "balanced" (images / (classes · images of the class), as in scikit-learn; of several labels
        images without the label / images with it, by which both sides count the same); a number for
        each class, separated by commas; or ``name=number`` of some, where the others have 1.
    data : TrainingData
        Knows names and images of the classes.

    Raises
    ------
    ValueError
        It is none of these, or a class of the data has no images or is not known.
    """
    if text is None:
        return None
    if text == _BALANCED:
        return _balanced(data, num_classes)
    parts = [part.strip() for part in text.split(",")]
    if all("=" in part for part in parts):
        return _named(parts, data, num_classes)
    if len(parts) != num_classes:
        raise _error(text, f"{num_classes} numbers, one for each class")
    return _checked([_number(part, text) for part in parts], text)


def _balanced(data: TrainingData, num_classes: int) -> Tensor:
    if data.has_several_labels:
        return _balanced_sides(data, num_classes)
    labels = data.training_labels()
    if labels is None:
        raise _error(_BALANCED, _UNTOLD)
    counts = torch.bincount(torch.tensor(labels), minlength=num_classes)
    _refuse(counts == 0, data, "training images of every class, and {} has none")
    return (len(labels) / (num_classes * counts.double())).float()


def _balanced_sides(data: TrainingData, num_classes: int) -> Tensor:
    labels = getattr(data.train_set, "labels", None)  # uint8 [images, classes]
    if labels is None or labels.shape[1:] != (num_classes,):
        raise _error(_BALANCED, _UNTOLD)
    having = torch.from_numpy(labels.sum(axis=0, dtype="int64"))
    lacking = len(labels) - having
    _refuse(having == 0, data, "training images of every class, and {} has none")
    _refuse(lacking == 0, data, "training images without each class, and all are of {}")
    return (lacking.double() / having).float()


def _refuse(faulty: Tensor, data: TrainingData, needs: str) -> None:
    """Raise ValueError that names the faulty classes, if there are any."""
    found = faulty.nonzero().flatten().tolist()
    if found:
        names = data.class_names
        shown = [names[index] if names else str(index) for index in found[:5]]
        raise _error(_BALANCED, needs.format(", ".join(shown)))


def _named(parts: list[str], data: TrainingData, num_classes: int) -> Tensor:
    text = ",".join(parts)
    weights = dict.fromkeys(data.class_names or map(str, range(num_classes)), 1.0)
    for part in parts:
        name, _, value = part.rpartition("=")
        if name not in weights:
            raise _error(text, f"names of classes, and {name!r} is none")
        weights[name] = _number(value, text)
    return _checked(list(weights.values()), text)


def _number(value: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise _error(text, f"numbers from 0 on, and {value!r} is none")
    return number


def _checked(weights: list[float], text: str) -> Tensor:
    if not any(weights):
        raise _error(text, "a class that counts")
    return torch.tensor(weights)


def _error(text: str, needs: str) -> ValueError:
    return ValueError(f"--class-weights: got {text!r}, needs {needs}")
