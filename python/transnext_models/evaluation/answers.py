"""A model's answers, image by image, and what follows from them: accuracies, loss, calibration.

Counts are integers, and sums of other numbers are taken in float64 in the order of the images. So a
result does not depend on how many processes shared the images, nor on the sizes of batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["BINS", "TOP", "Answers", "Summary", "answers_to", "summarise"]

TOP = 5
BINS = 15
"""Of the expected calibration error, equally wide."""


@dataclass(frozen=True)
class Answers:
    """Answers to n images.

    Attributes
    ----------
    images : int64 [n]
        Positions of the images in their set.
    labels : int64 [n]
    top : int64 [n, k]
        The most probable classes, best first; of equal logits the lower class is first. k is 5, or
        the number of classes where there are fewer.
    probabilities : float64 [n, k]
        Theirs.
    label_probabilities : float64 [n]
        Of the labels.
    losses : float64 [n]
        Cross-entropy.
    """

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    top: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    label_probabilities: NDArray[np.float64]
    losses: NDArray[np.float64]

    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers:
        """Return the answers of all parts, in the order of the images.

        Raises
        ------
        RuntimeError
            If an image was answered twice.
        """
        order = np.argsort(np.concatenate([part.images for part in parts]), kind="stable")
        whole = cls(
            **{
                name: np.concatenate([getattr(part, name) for part in parts])[order]
                for name in cls.__dataclass_fields__
            }
        )
        if (np.diff(whole.images) == 0).any():
            raise RuntimeError("an image was evaluated twice")
        return whole


def answers_to(
    images: Sequence[int], labels: Sequence[int], logits: Tensor, classes: Sequence[int] | None
) -> Answers:
    """Return the answers that logits give.

    Parameters
    ----------
    images, labels : sequence of n int
    logits : Tensor [n, classes]
        On the CPU.
    classes : sequence of int | None
        Classes to which the logits are restricted before anything else, ascending; every label is
        one of them. None for all.
    """
    logits = logits.double()
    wanted = torch.as_tensor(labels, dtype=torch.int64)
    names = torch.arange(logits.shape[1]) if classes is None else torch.as_tensor(list(classes))
    logits = logits[:, names]
    logarithms = logits.log_softmax(1)
    positions = torch.searchsorted(names, wanted)[:, None]
    of_labels = logarithms.gather(1, positions)[:, 0]
    top = torch.sort(logits, dim=1, descending=True, stable=True).indices[:, :TOP]
    return Answers(
        np.asarray(images, dtype=np.int64),
        wanted.numpy(),
        names[top].numpy(),
        logarithms.gather(1, top).exp().numpy(),
        of_labels.exp().numpy(),
        (-of_labels).numpy(),
    )


@dataclass(frozen=True)
class Summary:
    """What n answers come to.

    Attributes
    ----------
    images, correct1, correct5 : int
        Counts: answered, right, and right among the first five.
    loss : float | None
        Mean cross-entropy; None where an image has several right answers.
    calibration_error : float
        Expected calibration error in 15 bins, 0..1.
    bins : list of (int, int, float)
        Of each bin: images, right ones, sum of their confidences.
    per_class : dict[int, (int, int)]
        Of each label: right ones, images. Empty where an image has several right answers.
    """

    images: int
    correct1: int
    correct5: int
    loss: float | None
    calibration_error: float
    bins: list[tuple[int, int, float]]
    per_class: dict[int, tuple[int, int]]

    @property
    def top1(self) -> float:
        """Accuracy in percent."""
        return 100 * self.correct1 / self.images

    @property
    def top5(self) -> float:
        """Share of the images whose label is among the first five, in percent."""
        return 100 * self.correct5 / self.images


def summarise(answers: Answers, right: Mapping[int, Sequence[int]] | None = None) -> Summary:
    """Count right answers.

    Parameters
    ----------
    answers : Answers
        At least one.
    right : mapping of int to sequence of int, optional
        Right answers of each image by its position, instead of its label. Images without any are
        left out.
    """
    if right is None:
        is_right = answers.top == answers.labels[:, None]
        kept = np.ones(len(answers.images), dtype=bool)
    else:
        sets = [set(right.get(int(image), ())) for image in answers.images]
        is_right = np.array(
            [
                [int(name) in allowed for name in row]
                for row, allowed in zip(answers.top, sets, strict=True)
            ]
        )
        kept = np.array([bool(allowed) for allowed in sets])
    is_right, confidences = is_right[kept], answers.probabilities[kept, 0]
    first, among = is_right[:, 0], is_right.any(axis=1)
    count = len(first)
    if count == 0:
        raise ValueError("none of the images has a right answer")
    # Bin b has the confidences in (b / 15, (b + 1) / 15].
    bin_of = np.clip(np.ceil(confidences * BINS).astype(np.int64) - 1, 0, BINS - 1)
    bins = [
        (
            int((bin_of == b).sum()),
            int(first[bin_of == b].sum()),
            math.fsum(confidences[bin_of == b]),
        )
        for b in range(BINS)
    ]
    per_class: dict[int, tuple[int, int]] = {}
    if right is None:
        labels, inverse = np.unique(answers.labels, return_inverse=True)
        totals = np.bincount(inverse)
        hits = np.bincount(inverse, weights=first).astype(np.int64)
        per_class = {
            int(label): (int(hit), int(total))
            for label, hit, total in zip(labels, hits, totals, strict=True)
        }
    return Summary(
        images=count,
        correct1=int(first.sum()),
        correct5=int(among.sum()),
        loss=math.fsum(answers.losses) / count if right is None else None,
        calibration_error=math.fsum(abs(hits - total) for _, hits, total in bins) / count,
        bins=bins,
        per_class=per_class,
    )


def as_arrays(answers: Answers, paths: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return what predictions are saved as: the answers with the path of each image."""
    return {
        "path": np.array([paths[image] for image in answers.images]),
        "label": answers.labels,
        "top5": answers.top,
        "top5_probabilities": answers.probabilities,
        "label_probability": answers.label_probabilities,
    }
