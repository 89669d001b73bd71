"""Images of shards that can only be read in order, as training and validation take them."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from PIL import Image
from torch.utils.data import Dataset, IterableDataset, default_collate, get_worker_info

from ..decoding import decode
from ..random_numbers import seed_sample
from ..sampling import Sample
from .image_set import LabelledImage, UnreadableImage
from .lanes import Lanes, power_of_two, stream_samples
from .shards import ShardSample
from .tar_members import ArchiveError

__all__ = ["READABLE", "LoadingError", "ShardStream", "StreamedTraining", "StreamedValidation"]

READABLE = ""
"""In a batch, where another name is that of an image that cannot be read."""


class LoadingError(RuntimeError):
    """What ends a run where its images come from; `plain_errors` makes it readable."""


@contextlib.contextmanager
def _ending_the_run() -> Iterator[None]:
    try:
        yield
    except LoadingError:
        raise
    except (ArchiveError, RuntimeError) as error:
        raise LoadingError(f"--data: {error}") from error


class ShardStream(Dataset[Any]):
    """Shards of one split, and how many images an epoch takes from them.

    Parameters
    ----------
    shards : Sequence[str]
        Commands (`pipe:…`) or URLs.
    length : int
        Images.

    Attributes
    ----------
    transform : Callable[[PIL.Image.Image], Any] | None
        Applied by `StreamedTraining` and `StreamedValidation`.
    crop_size : int | None
        See `decode`; of `StreamedTraining`.
    """

    class_names = None
    num_classes = None
    has_several_labels = False

    def __init__(self, shards: Sequence[str], length: int) -> None:
        self.shards = tuple(shards)
        self.transform: Callable[[Image.Image], Any] | None = None
        self.crop_size: int | None = None
        self._length = length

    def __len__(self) -> int:
        return self._length

    def check_ranks(self, ranks: int) -> None:
        """Raise ValueError where some of so many processes would have no shard."""
        if len(self.shards) < ranks:
            raise ValueError(
                f"--data: got {len(self.shards)} shards for {ranks} processes, needs one for each"
            )


class StreamedTraining(Dataset[Any]):
    """Augmented images, batch by batch: the place of a batch decides what it holds.

    Parameters
    ----------
    stream : ShardStream
        Its transform included.
    seed, batch_size, rank, ranks, repeats
        As for `Lanes`.
    """

    def __init__(
        self, stream: ShardStream, seed: int, batch_size: int, rank: int, ranks: int, repeats: int
    ) -> None:
        self._lanes = Lanes(stream.shards, seed, batch_size, rank, ranks, repeats)
        self._transform = stream.transform
        self._crop_size = stream.crop_size
        self._seed = seed
        self._step = batch_size * ranks

    def __getitems__(self, batch: list[Sample]) -> list[tuple[Any, int, str]]:
        """Image, label, and the name of the image this one stands in for, or READABLE.

        For an image that cannot be read stands the next one of its batch that can.
        """
        epoch, position, _ = batch[0]
        with _ending_the_run():
            encoded = self._lanes.batch(epoch, position // self._step)
        images = [_decoded(sample, self._crop_size) for sample in encoded]
        if not any(isinstance(image, LabelledImage) for image in images):
            raise LoadingError(f"--data: no image of a batch can be read, {images[0]}")
        return [self._augmented(images, index, sample) for index, sample in enumerate(batch)]

    def _augmented(
        self, images: list[LabelledImage | UnreadableImage], index: int, sample: Sample
    ) -> tuple[Any, int, str]:
        stand_ins = images[index:] + images[:index]
        image = next(image for image in stand_ins if isinstance(image, LabelledImage))
        wanted = images[index]
        seed_sample(self._seed, sample.epoch, sample.position)
        pixels: Any = image.image if self._transform is None else self._transform(image.image)
        name = wanted.name if isinstance(wanted, UnreadableImage) else READABLE
        return pixels, image.label, name

    def __getitem__(self, index: int) -> Any:
        raise TypeError("a stream gives batches, never one image")


class StreamedValidation(IterableDataset[Any]):
    """Batches of preprocessed images of the shards of one process, each image once.

    A batch is of one lane of L, and the batches of lanes take turns. Loading process w of W has
    lanes w, w + W, …; where W divides L, their batches come to the trainer in the same order for
    any W.

    Parameters
    ----------
    stream : ShardStream
        Its transform included.
    batch_size : int
        Images of a batch.
    rank, ranks : int
        Number of this process, and of how many.
    """

    def __init__(self, stream: ShardStream, batch_size: int, rank: int, ranks: int) -> None:
        self._shards = stream.shards[rank::ranks]
        self._transform = stream.transform
        self._batch_size = batch_size
        self._lanes = power_of_two(len(self._shards))

    def workers(self, most: int) -> int:
        """Return how many loading processes can share the work."""
        return 0 if most == 0 else min(power_of_two(most), self._lanes)

    def __iter__(self) -> Iterator[tuple[Any, Any, list[str]]]:
        """Images and labels of a batch, and the names of those that cannot be read.

        Where a lane has no more images while others of the process have, the images are None.
        """
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        lanes = [
            stream_samples(self._shards[lane :: self._lanes])
            for lane in range(number, self._lanes, workers)
        ]
        while True:
            with _ending_the_run():
                turn = [list(itertools.islice(lane, self._batch_size)) for lane in lanes]
            if not any(turn):
                return
            yield from map(self._batch, turn)

    def _batch(self, encoded: list[ShardSample]) -> tuple[Any, Any, list[str]]:
        images = [_decoded(sample) for sample in encoded]
        unreadable = [image.name for image in images if isinstance(image, UnreadableImage)]
        readable = [image for image in images if isinstance(image, LabelledImage)]
        if not readable:
            return None, None, unreadable
        transform: Any = self._transform or (lambda image: image)
        pixels, labels = default_collate([(transform(i.image), i.label) for i in readable])
        return pixels, labels, unreadable


def _decoded(sample: ShardSample, crop_size: int | None = None) -> LabelledImage | UnreadableImage:
    try:
        image = decode(io.BytesIO(sample.content), crop_size)
    except MemoryError:
        raise
    except Exception as error:  # Pillow meets damaged files with almost anything
        return UnreadableImage(sample.name, f"{type(error).__name__}: {error}")
    return LabelledImage(image, sample.label, sample.name)
