"""Made-up sets of images, and a classifier whose answers are painted on them.

An image of one colour says a class; the classifier answers that class first, then the four after
it. So which images are answered rightly is decided where they are painted.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from transnext_models.classification.preprocess import Preprocess
from transnext_models.evaluation.class_lists import wnids
from transnext_models.evaluation.models import Built, EvaluatedModel
from transnext_models.evaluation.options import EvaluationOptions
from transnext_models.evaluation.preparation import CorruptedPreprocess
from transnext_models.evaluation.rows import Row
from transnext_models.evaluation.run import evaluate

CLASSES = 1000
SIDE = 40
STEP = 8  # between the colours of two classes
LOGITS = (9.0, 7.0, 5.0, 4.0, 3.0)  # of the first five answers; the others' are 0


def painted(answer: int, side: int = SIDE) -> bytes:
    """Return the file of an image that the classifier takes for the class `answer`."""
    colour = (answer // 32 * STEP, answer % 32 * STEP, 0)
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return file.getvalue()


def paint(file: Path, answer: int, side: int = SIDE) -> None:
    """Write such an image."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(painted(answer, side))


class PaintedClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.images = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.images += len(images)
        digits = (images.mean(dim=(2, 3)) * 255 / STEP).round().long()
        answers = digits[:, 0] * 32 + digits[:, 1]
        logits = torch.zeros(len(images), CLASSES)
        for rank, logit in enumerate(LOGITS):
            logits.scatter_(1, ((answers + rank) % CLASSES)[:, None], logit)
        return logits


def painted_model(module: nn.Module | None = None, name: str = "painted.v1") -> EvaluatedModel:
    """The classifier as weights of ImageNet, whose own size is 32."""
    plain = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return EvaluatedModel(
        name=name,
        weights="painted",
        weights_sha256="0" * 64,
        parameters=1_000_000,
        class_folders=wnids(),
        is_imagenet=True,
        own_size=32,
        modes=("normal",),
        build=lambda mode, device, precision: Built(module or PaintedClassifier(), "", "", "torch"),
        normal=lambda size: Preprocess(size, *plain),
        corrupted=lambda size: CorruptedPreprocess(size, *plain),
    )


def paint_classes(
    root: Path,
    labels: Iterable[int],
    *,
    per_class: int = 1,
    right: int | None = None,
    names: Sequence[str] | None = None,
    side: int = SIDE,
) -> None:
    """Write a folder for each class; the first `right` images are right, None for all.

    A wrong one is answered by the class before it of those painted.
    """
    names = wnids() if names is None else names
    labels = list(labels)
    number = 0
    for position, label in enumerate(labels):
        for index in range(per_class):
            is_right = right is None or number < right
            answer = label if is_right else labels[position - 1]
            paint(root / names[label] / f"image_{index}.png", answer, side)
            number += 1


def rows_of(place: Path, workers: int = 0, **options: Any) -> list[Row]:
    """Evaluate the painted classifier on sets that are not whole; return its rows."""
    asked = EvaluationOptions(
        output=place / "results.csv",
        device="cpu",
        workers=workers,
        allow_incomplete=True,
        **options,
    )
    outcome = evaluate(asked, model=painted_model())
    assert not outcome.failures
    return outcome.rows
