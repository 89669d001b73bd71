"""Images decoded and prepared ahead of the model, in processes of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..training.decoding import decode

__all__ = ["Batch", "ImageSource", "Unreadable", "batches"]

_AHEAD = 4  # batches that each worker prepares ahead


class Unreadable(NamedTuple):
    """An image that could not be read, and why."""

    position: int
    reason: str


@dataclass(frozen=True)
class ImageSource:
    """Where the images of a set come from.

    Attributes
    ----------
    open : callable
        Opens an image by its path.
    prepare : callable
        From the decoded image to the model's tensor.
    change : callable | None
        What is done to an image before, given its path too.
    """

    open: Callable[[str], BinaryIO]
    prepare: Callable[[Image.Image], Tensor]
    change: Callable[[Image.Image, str], Image.Image] | None = None

    def load(self, path: str) -> Tensor:
        """Return the model's input of an image."""
        image = decode(self.open(path))
        if self.change is not None:
            image = self.change(image, path)
        return self.prepare(image)


@dataclass(frozen=True)
class Batch:
    """Some images: positions, tensors ``[n, 3, size, size]``, and those that cannot be read.

    ``seconds`` is the time that preparing them took, in one process.
    """

    positions: list[int]
    images: Tensor | None
    unreadable: list[Unreadable]
    seconds: float


def batches(
    source: ImageSource,
    paths: Sequence[str],
    positions: Sequence[int],
    *,
    batch_size: int,
    workers: int,
    pinned: bool,
) -> Iterator[Batch]:
    """Yield the images at some positions of `paths`, in order.

    Parameters
    ----------
    source : ImageSource
    paths : sequence of str
        Of all images of the set.
    positions : sequence of int
        Which to load.
    batch_size, workers : int
        Images in a batch; processes, 0 for this one.
    pinned : bool
        Whether to put them where a GPU can fetch them.
    """
    loader: DataLoader[Any] = DataLoader(
        _Images(source, paths, positions),
        batch_size=batch_size,
        collate_fn=_collate,
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        pin_memory=False,
    )
    for batch in loader:
        if pinned and batch.images is not None:
            batch = Batch(
                batch.positions, batch.images.pin_memory(), batch.unreadable, batch.seconds
            )
        yield batch


class _Images(Dataset[tuple[int, "Tensor | str", float]]):
    def __init__(self, source: ImageSource, paths: Sequence[str], positions: Sequence[int]) -> None:
        self._source = source
        self._paths = paths
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str, float]:
        """Position, tensor or the reason why there is none, and seconds."""
        position = self._positions[index]
        started = time.perf_counter()
        image: Tensor | str
        try:
            image = self._source.load(self._paths[position])
        except MemoryError:
            raise
        except Exception as error:  # Pillow meets damaged files with almost anything
            image = f"{type(error).__name__}: {error}"
        return position, image, time.perf_counter() - started


def _collate(items: list[tuple[int, Tensor | str, float]]) -> Batch:
    good = [(position, image) for position, image, _ in items if isinstance(image, Tensor)]
    bad = [Unreadable(position, image) for position, image, _ in items if isinstance(image, str)]
    return Batch(
        [position for position, _ in good],
        torch.stack([image for _, image in good]) if good else None,
        bad,
        sum(seconds for _, _, seconds in items),
    )
