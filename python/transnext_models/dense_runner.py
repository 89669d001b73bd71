"""What a detector and a segmentor for images have in common: loading, and their classes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch

from .checkpoints import WeightsFile
from .checkpoints.hub import resolve_weights
from .checkpoints.metadata import image_scale
from .classification.label_files import labels_of
from .dense.backbone import OnBackbone
from .dense.classes import class_colours, class_names
from .dense.loading import read_dense
from .dense.published import DenseModel, find_dense_model
from .dense_registry import own_weights, shown_by_weights

__all__ = ["DenseRunner", "OpenedWeights", "open_weights"]

Labels = str | os.PathLike[str] | Sequence[str]
M = TypeVar("M", bound=OnBackbone)

_KINDS = {
    "detect": "a detector: maskrcnn or dino",
    "segment": "a segmentor: upernet or mask2former",
}


class OpenedWeights(NamedTuple):
    """Weights, and the model that they are of."""

    published: DenseModel
    weights: WeightsFile


def open_weights(
    task: str,
    default: str,
    model: str | None,
    weights: str | os.PathLike[str] | None,
    key: str | None,
) -> OpenedWeights:
    """Read the weights of a detector or segmentor.

    Parameters
    ----------
    task : {"detect", "segment"}
        What the model must be for.
    default : str
        Its name where neither it nor weights are given.
    model : str | None
        Its name; None is that of the weights.
    weights : str | path | None
        A file, or a file on the Hub (see `hub.resolve_weights`); None is the model's own.
    key : str | None
        Which state dict, where the file has several.

    Raises
    ------
    ValueError, RuntimeError
        If a name or file cannot be used; the message says which and why.
    """
    published = None
    if model is not None or weights is None:
        published = find_dense_model(model or default)
        if published.method.task != task:
            raise ValueError(f"model: got {model!r}, needs {_KINDS[task]}")
        if weights is None:
            weights = own_weights(published)
    assert weights is not None
    file = read_dense(resolve_weights(weights), key=key)
    published = published or shown_by_weights(file, task)
    scale = image_scale(file) or published.scale
    return OpenedWeights(dataclasses.replace(published, scale=scale), file)


class DenseRunner(Generic[M]):
    """A model with names and colours of its classes, ready on a device.

    Parameters
    ----------
    model : Module
        A detector or segmentor.
    labels : sequence of str | path | None
        Names of the classes, or a file with them (see `label_files.read_labels`). None are those of
        the weights, or else COCO's for 80 classes and ADE20K's for 150.
    device : torch.device
        Where the model is to be.
    name, weights : str, Path | None
        ``architecture.tag`` of the model, and the file the weights came from.
    """

    def __init__(
        self,
        model: M,
        labels: Labels | None,
        device: torch.device | str,
        *,
        name: str = "",
        weights: Path | None = None,
    ) -> None:
        self.name, self.weights = name, weights
        if labels is not None:
            self.class_names = labels_of(labels, model.num_classes)
        else:
            self.class_names = list(model.class_names or class_names(model.num_classes))
        self.palette = class_colours(self.class_names)
        if model.class_colours is not None:
            self.palette = np.array(model.class_colours, np.uint8)
        self.device = torch.device(device)
        self.model = model.to(self.device).freeze()
