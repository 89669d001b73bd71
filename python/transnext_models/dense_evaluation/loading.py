"""Images prepared ahead of the model, with their label maps, in processes of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..dense.batches import fitted
from ..dense.run_lengths import Size
from ..dense_data.reading import read_sample
from ..dense_data.records import AnnotatedImage

__all__ = ["LoadedImage", "loaded_images"]

_AHEAD = 2  # images that each worker prepares ahead


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """An image as the model takes it, or why it cannot be.

    Attributes
    ----------
    position : int
        In the set.
    image_id : int | str
        As results name it.
    seconds : float
        What preparing it took.
    size : (int, int)
        Its height and width.
    views : list[Tensor]
        float32 ``[3, h, w]``, one for each scale.
    labels : uint8 [H, W] | None
        Its label map, 255 for no class.
    problem : str
        Why it cannot be read, "" where it can.
    """

    position: int
    image_id: int | str
    seconds: float
    size: Size = (0, 0)
    views: Sequence[Tensor] = ()
    labels: NDArray[Any] | None = None
    problem: str = ""


def loaded_images(
    images: Sequence[AnnotatedImage],
    positions: Sequence[int],
    scales: Sequence[tuple[int, int]],
    num_classes: int,
    workers: int,
) -> Iterator[LoadedImage]:
    """Yield the images at some positions, in order.

    Parameters
    ----------
    images : Sequence[AnnotatedImage]
        Of the set.
    positions : Sequence[int]
        Which to load.
    scales : Sequence[tuple[int, int]]
        Each image is seen resized to fit into each of these, (long side, short side).
    num_classes : int
        Of the set; a label map may have none beyond.
    workers : int
        Processes, 0 for this one.
    """
    yield from DataLoader(
        _Images(images, positions, scales, num_classes),
        batch_size=None,
        collate_fn=_as_it_is,  # type: ignore[arg-type]
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
    )


class _Images(Dataset[LoadedImage]):
    def __init__(
        self,
        images: Sequence[AnnotatedImage],
        positions: Sequence[int],
        scales: Sequence[tuple[int, int]],
        num_classes: int,
    ) -> None:
        self._images = images
        self._positions = positions
        self._scales = scales
        self._num_classes = num_classes

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> LoadedImage:
        position = self._positions[index]
        image = self._images[position]
        started = time.perf_counter()
        try:
            sample = read_sample(
                image,
                for_training=image.label_file is not None,
                num_classes=self._num_classes,
            )
            if sample.label_map is not None and sample.label_map.shape != sample.size:
                raise ValueError(
                    f"{image.label_file.path if image.label_file else ''}: its labels are "
                    f"{sample.label_map.shape}, its image {sample.size} (height, width)"
                )
            views = [fitted(sample.image, scale) for scale in self._scales]
        except MemoryError:
            raise
        except Exception as error:  # decoders meet damaged files with almost anything
            named = image.path in str(error) or isinstance(error, ValueError)
            problem = str(error) if named else f"{image.path}: {type(error).__name__}: {error}"
            return LoadedImage(position, image.image_id, 0.0, problem=problem)
        seconds = time.perf_counter() - started
        return LoadedImage(position, image.image_id, seconds, sample.size, views, sample.label_map)


def _as_it_is(item: LoadedImage) -> LoadedImage:
    """Collate nothing: one image at a time, as the published results were measured."""
    return item
