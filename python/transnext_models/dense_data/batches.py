"""Samples put together: normalised, padded with zeros at right and bottom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..dense.batches import MEAN, STD
from ..dense.run_lengths import Size
from .records import IGNORED
from .sample import DenseSample

__all__ = ["DenseBatch", "collate"]


@dataclass(frozen=True, slots=True, eq=False)
class DenseBatch:
    """B samples.

    Attributes
    ----------
    images : Tensor
        float32 [B, 3, H, W].
    sizes, original_sizes : list[tuple[int, int]]
        Height and width of each image without padding, and before any step.
    image_ids : list[int | str]
        As results name them.
    boxes, labels : list[Tensor] | None
        Of each image float32 [n, 4] (left, top, right, bottom) and int64 [n].
    masks : list[Tensor] | None
        Of each image uint8 [n, H, W], padded too.
    label_maps : Tensor | None
        int64 [B, H, W], 255 for no class and in the padding.
    """

    images: Tensor
    sizes: list[Size]
    original_sizes: list[Size]
    image_ids: list[int | str]
    boxes: list[Tensor] | None = None
    labels: list[Tensor] | None = None
    masks: list[Tensor] | None = None
    label_maps: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def pin_memory(self) -> DenseBatch:
        """Return it in memory that a GPU copies from; torch's loaders ask for this."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device | str) -> DenseBatch:
        """Return it on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> DenseBatch:
        def of_all(tensors: list[Tensor] | None) -> list[Tensor] | None:
            return None if tensors is None else [change(tensor) for tensor in tensors]

        return replace(
            self,
            images=change(self.images),
            boxes=of_all(self.boxes),
            labels=of_all(self.labels),
            masks=of_all(self.masks),
            label_maps=None if self.label_maps is None else change(self.label_maps),
        )


def collate(samples: Sequence[DenseSample], divisor: int = 1, least_side: int = 0) -> DenseBatch:
    """Put samples together.

    Parameters
    ----------
    samples : Sequence[DenseSample]
        All with the same kinds of annotations.
    divisor : int
        Height and width are padded to the largest of the batch, then to multiples of it.
    least_side : int
        And to this at least.
    """
    height, width = (
        -(-max(least_side, *(sample.size[axis] for sample in samples)) // divisor) * divisor
        for axis in (0, 1)
    )
    images = torch.zeros(len(samples), 3, height, width)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    for target, sample in zip(images, samples, strict=True):
        rows, columns = sample.size
        pixels = torch.from_numpy(sample.image).permute(2, 0, 1)
        torch.sub(pixels, mean, out=target[:, :rows, :columns])
        target[:, :rows, :columns] /= std
    first = samples[0]
    return DenseBatch(
        images,
        [sample.size for sample in samples],
        [sample.original_size for sample in samples],
        [sample.image_id for sample in samples],
        None if first.boxes is None else [_tensor(sample.boxes) for sample in samples],
        None if first.labels is None else [_tensor(sample.labels) for sample in samples],
        None if first.masks is None else [_padded(s.masks, height, width, 0) for s in samples],
        None
        if first.label_map is None
        else torch.stack([_padded(s.label_map, height, width, IGNORED).long() for s in samples]),
    )


def _tensor(values: np.ndarray | None) -> Tensor:
    assert values is not None
    return torch.from_numpy(np.ascontiguousarray(values))


def _padded(values: np.ndarray | None, height: int, width: int, fill: int) -> Tensor:
    """Return ``[..., h, w]`` padded at right and bottom."""
    tensor = _tensor(values)
    rows, columns = tensor.shape[-2:]
    result = torch.full((*tensor.shape[:-2], height, width), fill, dtype=tensor.dtype)
    result[..., :rows, :columns] = tensor
    return result
