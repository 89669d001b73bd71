"""An image with its annotations, as it goes through a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..dense.run_lengths import Size
from .draws import Draws

__all__ = ["DenseSample", "Pipeline", "Step"]


@dataclass(frozen=True, slots=True, eq=False)
class DenseSample:
    """What a step takes and returns; all parts are of the same height and width.

    Attributes
    ----------
    image : uint8 [h, w, 3]
        RGB.
    image_id : int | str
        As results name it.
    original_size : tuple[int, int]
        Height and width before any step.
    boxes : float32 [n, 4] | None
        Left, top, right, bottom in pixels.
    labels : int64 [n] | None
        Of the boxes.
    masks : uint8 [n, h, w] | None
        Of the boxes, zeros and ones.
    label_map : uint8 [h, w] | None
        Class of each pixel, 255 for none.
    """

    image: NDArray[np.uint8]
    image_id: int | str
    original_size: Size
    boxes: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None
    masks: NDArray[np.uint8] | None = None
    label_map: NDArray[np.uint8] | None = None

    @property
    def size(self) -> Size:
        """Height and width as they are now."""
        height, width = self.image.shape[:2]
        return height, width

    @property
    def scale(self) -> tuple[float, float]:
        """What predicted x and y are divided by for the original image, where nothing is cut."""
        (height, width), (original_height, original_width) = self.size, self.original_size
        return width / original_width, height / original_height


Step = Callable[[DenseSample, Draws], DenseSample]


@dataclass(frozen=True)
class Pipeline:
    """Steps in a row; itself a step.

    Attributes
    ----------
    steps : tuple[Step, ...]
        The first is taken first.
    """

    steps: tuple[Step, ...]

    def __call__(self, sample: DenseSample, draws: Draws) -> DenseSample:
        """Take a sample through all steps."""
        for step in self.steps:
            sample = step(sample, draws)
        return sample
