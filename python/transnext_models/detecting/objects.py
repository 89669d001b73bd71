"""One object that a detector found."""

from __future__ import annotations

from dataclasses import dataclass

from ..dense.run_lengths import RunLengths

__all__ = ["DetectedObject"]


@dataclass(frozen=True, slots=True)
class DetectedObject:
    """One object of a result.

    Attributes
    ----------
    index, label : int, str
        Number and name of its class.
    score : float
        How sure the model is, 0…1.
    box : (float, float, float, float)
        Left, top, right and bottom in pixels of the image.
    mask : RunLengths | None
        Its pixels, of a model that finds masks; `RunLengths.bitmap` has them as an array.
    """

    index: int
    label: str
    score: float
    box: tuple[float, float, float, float]
    mask: RunLengths | None = None
