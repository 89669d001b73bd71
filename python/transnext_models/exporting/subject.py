"""The model that is exported, with all that its file says about it."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..classification.classifier import Classifier
from ..classification.preprocess import Preprocess
from ..dense.published import DenseModel, find_dense_model, is_dense
from ..evaluation.models import MODES, mode_options
from ..layers.arguments import one_of
from ..registry import load_model
from ..segmentation import UPerNet
from ..segmenting import Segmentor
from ..variants import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["Labels", "Subject", "load_subject"]

Labels = str | os.PathLike[str] | Sequence[str]


@dataclass(frozen=True)
class Subject:
    """A model to export.

    Attributes
    ----------
    name, weights : str
        ``architecture.tag``, and the file that its weights came from.
    model : Module
        In evaluation mode, float32, on the CPU; from normalised images ``[B, 3, H, W]``.
    outputs : sequence of str
        Names of what it returns: ``logits``, or ``map1`` … of a backbone.
    labels : sequence of str
        Names of the classes; none of a backbone.
    preprocess : dict
        From an image to the model's input, in timm's terms.
    size : (int, int)
        Height and width of the images it was made for.
    """

    name: str
    weights: str
    model: nn.Module
    outputs: Sequence[str]
    labels: Sequence[str]
    preprocess: dict[str, Any]
    size: tuple[int, int]

    def in_dtype(self, dtype: torch.dtype) -> Exportable:
        """Return a copy that holds nothing but PyTorch's own operators and computes in `dtype`."""
        model = copy.deepcopy(self.model).to(dtype).eval()
        for module in model.modules():
            if hasattr(module, "backend"):
                module.backend = "torch"  # type: ignore[assignment]
        return Exportable(model, dtype).requires_grad_(False)


class Exportable(nn.Module):
    """A model of any type that takes and gives float32, whose outputs are a tuple."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """From images ``[B, 3, H, W]`` to the outputs."""
        return tuple(output.float() for output in as_tuple(self.model(images.to(self.dtype))))


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    """Return a model's output, one or several tensors, as several."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def load_subject(
    model: str | None,
    weights: str | os.PathLike[str] | None = None,
    *,
    key: str | None = None,
    mode: str = "normal",
    features_only: bool = False,
    side: int | None = None,
    labels: Labels | None = None,
) -> Subject:
    """Load a model to export.

    Parameters
    ----------
    model, weights, key, labels
        As of `Classifier.load`; segmentors by their names.
    mode : str
        One of `evaluation.models.MODES`.
    features_only : bool
        Its four maps instead of logits: a backbone.
    side : int | None
        Side of the images that the preprocessing makes; None is the model's.

    Raises
    ------
    ValueError, RuntimeError
        There is no such model, its weights cannot be had, or it cannot be exported.
    """
    one_of("mode", mode, MODES)
    if model is not None and is_dense(model):
        return _segmentor(find_dense_model(model), weights, key, mode, features_only, labels)
    classifier = Classifier.load(model, weights, key=key, labels=labels, size=side, device="cpu")
    built = classifier.model
    options: dict[str, Any] = mode_options(mode, built)
    if features_only:
        options |= {"features_only": True, "position_bias": built.position_bias, **options}
    if options:
        loaded = load_model(classifier.name, classifier.weights, key=key, **options)
        built = loaded.model.freeze()
    outputs = [f"map{i + 1}" for i in range(built.num_stages)] if features_only else ["logits"]
    prepared = classifier.preprocess
    return Subject(
        classifier.name,
        str(classifier.weights),
        built,
        outputs,
        [] if features_only else classifier.labels,
        _described(prepared),
        (prepared.size, prepared.size),
    )


def _described(prepared: Preprocess) -> dict[str, Any]:
    return {
        "input_size": [3, prepared.size, prepared.size],
        "interpolation": prepared.interpolation,
        "crop_pct": prepared.crop_pct,
        "crop_mode": prepared.crop_mode,
        "mean": list(prepared.mean),
        "std": list(prepared.std),
    }


def _segmentor(
    published: DenseModel,
    weights: str | os.PathLike[str] | None,
    key: str | None,
    mode: str,
    features_only: bool,
    labels: Labels | None,
) -> Subject:
    """Load a UPerNet; its logits are those of the whole image at once."""
    if published.method.name != "upernet":
        raise ValueError(
            f"model: got {published.name!r}, which has no export: needs a classifier, a "
            "classifier's backbone (--features-only) or a UPerNet, such as upernet_transnext_tiny"
        )
    if mode != "normal" or features_only:
        raise ValueError(
            f"model: got {published.name!r}, a segmentor, which is exported in mode 'normal' and "
            "with its logits: --mode and --features-only are for classifiers"
        )
    segmentor = Segmentor.load(published.full_name, weights, key=key, labels=labels, device="cpu")
    assert isinstance(segmentor.model, UPerNet)
    side = published.method.img_size
    about = {
        "input_size": [3, side, side],
        "interpolation": "bilinear",
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
    }
    return Subject(
        published.full_name,
        str(segmentor.weights),
        segmentor.model,
        ["logits"],
        segmentor.class_names,
        about,
        (side, side),
    )
