"""What a viewer looks at: models, images, and the records of their attention, made when needed."""

from __future__ import annotations

import base64
import io
import threading
from collections import OrderedDict
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ...classification.classifier import Classifier
from ...classification.preprocess import Preprocess
from ..receptive_field import ReceptiveField, effective_receptive_field, fields_of_positions
from ..record import AttentionRecord, record_attention

__all__ = ["Session", "Subject", "data_url", "sample_images"]

_RECORDS = 6  # kept; one of Tiny takes 30 MB at 224 pixels
_IMAGES = 64  # uploads kept, each as large as its file was decoded
_TOP = 5
_THUMBNAIL = 96


@dataclass(frozen=True)
class Subject:
    """A model that is looked at.

    Attributes
    ----------
    classifier : Classifier
        The model with its labels and preprocessing.
    note : str
        How it is run, where that is not as usual: ``linear mode``.
    """

    classifier: Classifier
    note: str = ""

    @property
    def name(self) -> str:
        """What the page calls it."""
        name = f"{self.classifier.name}, {self.classifier.preprocess.size} pixels"
        return f"{name}, {self.note}" if self.note else name


@dataclass(frozen=True)
class _Shown:
    name: str
    image: Image.Image


class Session:
    """The models and images of a viewer; safe to use from several threads.

    Parameters
    ----------
    subjects : list of Subject
        One model, or two to be compared.
    images : dict of str to PIL image
        Shown at once, by name; they are kept as long as the session.
    """

    def __init__(self, subjects: list[Subject], images: dict[str, Image.Image]) -> None:
        if not 1 <= len(subjects) <= 2:
            raise ValueError(f"subjects: got {len(subjects)}, needs 1 or 2")
        if not images:
            raise ValueError("images: got none, needs at least one")
        self.subjects = subjects
        self._lock = threading.RLock()
        self._images: OrderedDict[str, _Shown] = OrderedDict()
        self._kept = len(images)
        self._count = 0
        self._records: OrderedDict[tuple[str, int], AttentionRecord] = OrderedDict()
        for name, image in images.items():
            self.add(name, image)

    @property
    def images(self) -> list[str]:
        """Ids of the images, the first ones first."""
        with self._lock:
            return list(self._images)

    def add(self, name: str, image: Image.Image) -> str:
        """Take an image in, and return its id; of many uploads the oldest go."""
        with self._lock:
            key = str(self._count)
            self._count += 1
            self._images[key] = _Shown(name, image.convert("RGB"))
            while len(self._images) > self._kept + _IMAGES:
                oldest = list(self._images)[self._kept]
                del self._images[oldest]
            return key

    def record(self, image: str, model: int = 0) -> AttentionRecord:
        """Return what a model attends to on an image.

        Raises
        ------
        KeyError
            If there is no such image or model.
        """
        with self._lock:
            key = (image, model)
            if key not in self._records:
                shown, subject = self._images[image], self._subject(model)
                classifier = subject.classifier
                self._records[key] = record_attention(
                    classifier.model, shown.image, classifier.preprocess
                )
            self._records.move_to_end(key)
            while len(self._records) > _RECORDS:
                self._records.popitem(last=False)
            return self._records[key]

    def receptive_field(
        self, image: str, model: int, stage: int, pixel: tuple[float, float]
    ) -> ReceptiveField:
        """Return the effective receptive field of a pixel's token on this one image."""
        record = self.record(image, model)
        classifier = self._subject(model).classifier
        with self._lock:
            position = record.position(stage, pixel)
            return effective_receptive_field(classifier.model, [record.image], stage, position)

    def receptive_fields(self, image: str, model: int, stage: int) -> list[ReceptiveField]:
        """Return those of all tokens of a stage, row by row."""
        record = self.record(image, model)
        classifier = self._subject(model).classifier
        rows, columns = record.recorded(stage).info.grid
        positions = [(row, column) for row in range(rows) for column in range(columns)]
        with self._lock:
            return fields_of_positions(classifier.model, record.image, stage, positions)

    # -- what the page is told ------------------------------------------------------------------

    def about_models(self) -> list[dict[str, Any]]:
        """Return what the page is told of each model: its blocks, their grids and heads."""
        about = []
        for index, subject in enumerate(self.subjects):
            record = self.record(next(iter(self._images)), index)
            blocks = [
                {**info._asdict(), "stride": record.recorded(info.stage, info.block).stride}
                for info in record.blocks
            ]
            about.append(
                {
                    "name": subject.name,
                    "size": list(record.image_size),
                    "classes": len(subject.classifier.labels),
                    "blocks": blocks,
                }
            )
        return about

    def about_images(self) -> list[dict[str, str]]:
        """Return id, name and a small picture of each image."""
        with self._lock:
            shown = list(self._images.items())
        return [
            {"id": key, "name": entry.name, "thumbnail": data_url(_small(entry.image))}
            for key, entry in shown
        ]

    def about_image(self, image: str) -> dict[str, Any]:
        """Return what the page is told of one image: as each model got it, and the five classes.

        Raises
        ------
        KeyError
            If there is no such image.
        """
        models = []
        for index, subject in enumerate(self.subjects):
            record = self.record(image, index)
            classifier = subject.classifier
            models.append(
                {
                    "picture": data_url(picture_of(record.image, classifier.preprocess)),
                    "top": _top(record.output, classifier.labels),
                }
            )
        with self._lock:
            name = self._images[image].name
        return {"id": image, "name": name, "models": models}

    def _subject(self, model: int) -> Subject:
        if not 0 <= model < len(self.subjects):
            raise KeyError(model)
        return self.subjects[model]


def sample_images() -> dict[str, Image.Image]:
    """Return the package's sample digits, one of each, dark on light, by name."""
    folder = resources.files("transnext_models") / "assets" / "samples"
    images: dict[str, Image.Image] = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if not entry.name.endswith(".png"):
            continue
        name = f"digit {entry.name.split('_')[1]}"
        if name not in images:
            with Image.open(io.BytesIO(entry.read_bytes())) as image:
                images[name] = ImageOps.invert(image.convert("RGB"))
    if not images:
        raise ValueError("this installation lacks its sample images; install the package again")
    return images


def picture_of(image: Tensor, preprocess: Preprocess) -> Image.Image:
    """Return what a model got, ``[3, H, W]``, as the 8-bit image that it was made of."""
    mean, std = (
        torch.tensor(list(values), dtype=torch.float64).view(-1, 1, 1)
        for values in (preprocess.mean, preprocess.std)
    )
    pixels = ((image.detach().cpu().double() * std + mean) * 255).round().clamp(0, 255)
    return Image.fromarray(np.ascontiguousarray(pixels.byte().permute(1, 2, 0).numpy()), "RGB")


def data_url(image: Image.Image) -> str:
    """Return an image as a PNG in a ``data:`` URL."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _small(image: Image.Image) -> Image.Image:
    return ImageOps.fit(image, (_THUMBNAIL, _THUMBNAIL))


def _top(output: Any, labels: list[str]) -> list[list[Any]]:
    """Return the most probable classes, best first, as ``[label, probability]``."""
    if not isinstance(output, Tensor) or output.dim() != 1:
        return []
    top = output.float().softmax(-1).topk(min(_TOP, len(output)))
    return [
        [labels[index], value]
        for index, value in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        if value == value
    ]
