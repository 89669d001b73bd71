"""The models that are evaluated, seen in one way: an image goes in, an answer comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..checkpoints.digest import sha256
from ..classification.classifier import NOT_FINITE, attention_backend
from ..dense.batches import pad_images
from ..dense.found_objects import FoundObjects
from ..detecting import Detector
from ..detection import MaskRCNN
from ..evaluation.engine import PRECISIONS, Machine
from ..segmenting import Segmentor
from .loading import LoadedImage
from .mean_iou import PixelCounts, count_pixels
from .options import DenseOptions

__all__ = ["Answer", "Described", "Subject", "load_subject"]


class Answer(NamedTuple):
    """To one image: what was found, or its pixels counted, and then the label map too."""

    found: FoundObjects | PixelCounts
    labels: NDArray[np.uint8] | None = None


class Described(NamedTuple):
    """What rows say about a model.

    Attributes
    ----------
    name : str
        ``architecture.tag``.
    weights_sha256 : str
        Of the file of weights, "" where there is none.
    parameters : int
        Of the model.
    backend : str
        Of its attention.
    mode : str
        One of `published.MODES` or of `options.MODES`.
    """

    name: str
    weights_sha256: str = ""
    parameters: int = 0
    backend: str = ""
    mode: str = "single"


class Subject(ABC):
    """A model that can be evaluated.

    Attributes
    ----------
    described : Described
        What rows say about it.
    num_classes : int
        That it knows.
    scales : Sequence[tuple[int, int]]
        (long side, short side) of the views that it takes of an image.
    has_masks : bool
        Whether what it finds has masks.
    """

    described: Described
    num_classes: int
    scales: Sequence[tuple[int, int]]
    has_masks: bool

    @abstractmethod
    def answer(self, image: LoadedImage) -> Answer:
        """Answer to an image; FloatingPointError where the model's output is not finite."""


def load_subject(options: DenseOptions, mode: str, machine: Machine) -> Subject:
    """Load a model for evaluation on the machine's device.

    Raises
    ------
    ValueError, RuntimeError
        There are no such weights, or they cannot be used.
    """
    build: dict[str, Any] = {"key": options.weights_key, "device": str(machine.device)}
    if options.backend is not None:
        build["backend"] = options.backend
    if options.task == "detect":
        detector = Detector.load(options.model, options.weights, **build)
        return _DetectorSubject(detector, machine)
    if mode == "multi_scale_extrapolated":
        build |= {"position_bias": "extrapolate"}
    asked = {"published": None, "multi_scale_extrapolated": "multi_scale"}.get(mode, mode)
    segmentor = Segmentor.load(options.model, options.weights, mode=asked, **build)
    return _SegmentorSubject(segmentor, mode, machine)


def _described(runner: Any, mode: str, machine: Machine) -> Described:
    model = runner.model
    return Described(
        runner.name,
        sha256(runner.weights),
        sum(p.numel() for p in model.parameters()),
        attention_backend(model.backbone, PRECISIONS[machine.precision]),
        mode,
    )


class _DetectorSubject(Subject):
    def __init__(self, detector: Detector, machine: Machine) -> None:
        self._model = detector.model
        self._machine = machine
        self.described = _described(detector, "single", machine)
        self.num_classes = self._model.num_classes
        self.scales = [detector.scale]
        self.has_masks = isinstance(self._model, MaskRCNN) and self._model.has_masks

    @torch.inference_mode()
    def answer(self, image: LoadedImage) -> Answer:
        views = [view.to(self._machine.device) for view in image.views]
        with self._machine.autocast():
            if isinstance(self._model, MaskRCNN):
                padded, sizes = pad_images(views, self._model.pad_divisor)
                [found] = self._model(padded, sizes, [image.size], paste=False)
            else:
                padded, sizes = pad_images(views)
                [found] = self._model(padded, sizes, [image.size])
        if not (found.scores.isfinite().all() and found.boxes.isfinite().all()):
            raise FloatingPointError(NOT_FINITE)
        return Answer(found.found(image.image_id, image.size))


class _SegmentorSubject(Subject):
    has_masks = False

    def __init__(self, segmentor: Segmentor, mode: str, machine: Machine) -> None:
        self._model, self._inference = segmentor.model, segmentor.inference
        self._machine = machine
        own = "slide" if segmentor.name.startswith("upernet") else "whole"
        is_published = mode in ("published", own)
        self.described = _described(segmentor, "single" if is_published else mode, machine)
        self.num_classes = self._model.num_classes
        self.scales = self._inference.scales()

    @torch.inference_mode()
    def answer(self, image: LoadedImage) -> Answer:
        views = [view.to(self._machine.device)[None] for view in image.views]
        with self._machine.autocast():
            values, best = self._inference.scores(self._model, views, image.size).best()
        if not values.isfinite().all():
            raise FloatingPointError(NOT_FINITE)
        assert image.labels is not None
        labels = best[0].cpu().numpy().astype(np.uint8)
        counts = count_pixels(image.image_id, labels, image.labels, self.num_classes)
        return Answer(counts, labels)
