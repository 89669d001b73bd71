"""What a detector found in an image, as it is scored and stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .run_lengths import RunLengths

__all__ = ["FoundObjects"]


@dataclass(frozen=True, slots=True, eq=False)
class FoundObjects:
    """The n objects found in one image, in pixels of the original image.

    Attributes
    ----------
    image_id : int | str
        Of the annotated image.
    boxes : float [n, 4]
        Left, top, right, bottom.
    scores : float [n]
        Higher is surer.
    labels : int [n]
        From 0.
    masks : tuple[RunLengths, ...] | None
        Of each.
    """

    image_id: int | str
    boxes: NDArray[Any]
    scores: NDArray[Any]
    labels: NDArray[Any]
    masks: tuple[RunLengths, ...] | None = None

    def of_image(self, image_id: int | str) -> FoundObjects:
        """Return the same objects with another id of their image."""
        return replace(self, image_id=image_id)

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.boxes.shape != (count, 4) or len(self.labels) != count:
            raise ValueError(
                f"boxes: got {self.boxes.shape} and {len(self.labels)} labels, "
                f"needs ({count}, 4) and {count}, as there are scores"
            )
        if self.masks is not None and len(self.masks) != count:
            raise ValueError(f"masks: got {len(self.masks)}, needs {count}, as there are scores")
        if not (np.isfinite(self.boxes).all() and np.isfinite(self.scores).all()):
            raise ValueError(
                f"boxes, scores: got what is not finite for image {self.image_id}: "
                "damaged weights, or an overflow"
            )
