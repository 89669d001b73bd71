"""Which classes, in which order, the sets of images have: the lists that timm carries.

They equal their authors' lists: hendrycks/natural-adv-examples and hendrycks/imagenet-r (200
classes each, in ascending order), google-research/reassessed-imagenet (the ReaL labels).
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from transnext_ops.distribution import install_hint

from ..classification.labels import timm_data_folder

__all__ = ["indices_of_a", "indices_of_r", "real_labels", "wnids"]

_CLASSES = 1000
_VALIDATION_IMAGES = 50_000


@lru_cache(maxsize=1)
def wnids() -> tuple[str, ...]:
    """Return ImageNet-1K's WordNet ids, sorted: the position of each is its label.

    Raises
    ------
    RuntimeError
        If timm is not installed.
    """
    found = tuple(_text("imagenet_synsets.txt").split())
    assert len(found) == _CLASSES, len(found)
    assert list(found) == sorted(found)
    return found


def indices_of_a() -> tuple[int, ...]:
    """Return the labels of ImageNet-A's 200 classes, ascending."""
    return _indices("imagenet_a_indices.txt")


def indices_of_r() -> tuple[int, ...]:
    """Return the labels of ImageNet-R's 200 classes, ascending."""
    return _indices("imagenet_r_indices.txt")


def real_labels(file: Path | None = None) -> list[list[int]]:
    """Return the right answers of each validation image, in the order of their numbers.

    Parameters
    ----------
    file : Path | None
        The published ``real.json``; None is the copy that timm carries.

    Raises
    ------
    ValueError
        If the file is no such list.
    """
    name = "timm's ReaL labels" if file is None else str(file)
    text = _text("imagenet_real_labels.json") if file is None else file.read_text("utf-8")
    try:
        answers = json.loads(text)
    except ValueError as error:
        raise ValueError(f"real: {name} is no JSON ({error})") from error
    if not (
        isinstance(answers, list)
        and len(answers) == _VALIDATION_IMAGES
        and all(isinstance(labels, list) for labels in answers)
        and all(type(label) is int and 0 <= label < _CLASSES for one in answers for label in one)
    ):
        raise ValueError(
            f"real: {name} needs a list of labels for each of the {_VALIDATION_IMAGES:,} images"
        )
    return answers


def _indices(name: str) -> tuple[int, ...]:
    found = tuple(int(line) for line in _text(name).split())
    assert list(found) == sorted(set(found)), name
    return found


def _text(name: str) -> str:
    folder = timm_data_folder()
    if folder is None:
        raise RuntimeError(
            f"evaluation needs timm, which has the lists of classes: {install_hint('evaluate')}"
        )
    return (folder / name).read_text("utf-8")
