"""Sessions of the viewer for tests: the demonstrator, and a small model beside it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from transnext_models.classification.classifier import Classifier
from transnext_models.seeing.viewer import Session, Subject, sample_images


def digits(count: int = 3) -> dict[str, Any]:
    """Return the first sample digits."""
    return dict(list(sample_images().items())[:count])


def demonstrator(*, models: int = 1, size: int | None = None, images: int = 3) -> Session:
    """Return a session of the demonstrator, and of itself at a larger size."""
    subjects = [Subject(Classifier.load(size=size)), Subject(Classifier.load(size=96))]
    return Session(subjects[:models], digits(images))


def unpacked(body: bytes) -> tuple[dict[str, Any], np.ndarray]:
    """Return header and numbers of an answer."""
    length = int.from_bytes(body[:4], "little")
    return json.loads(body[4 : 4 + length]), np.frombuffer(body[4 + length :], "<f4")
