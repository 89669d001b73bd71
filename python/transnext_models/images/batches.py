"""Images to batches of what a model takes, decoded in threads ahead of the model."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

from .errors import ImageError
from .memory import DECODING, MemoryBudget
from .picture import Picture
from .read import Working, open_picture
from .sources import check_source, is_one, name_of, stream_of

_DECODING_THREADS = 4

T = TypeVar("T")
Batch = list[tuple[Path, "T | ImageError"]]


def images_of(argument: str, images: Any) -> Iterable[Any]:
    """Return the images that `images` are, one or several.

    Raises
    ------
    TypeError
        If they are neither; the message names the argument.
    """
    if is_one(images):
        return [images]
    if not isinstance(images, Iterable) or isinstance(images, Mapping):
        check_source(argument, images)
    return images


def decoded_batches(
    images: Any,
    prepare: Callable[[Picture], T],
    working: Working,
    *,
    batch_size: int,
    image_memory: int | None,
) -> DecodedBatches[T]:
    """Return the batches of what a caller gives as images.

    Parameters
    ----------
    images : Any
        See `images_of`.
    prepare, working, batch_size : Callable[[Picture], T], Working, int
        See `DecodedBatches`.
    image_memory : int | None
        Bytes that decoding may take; None is `DECODING_BYTES`, shared by the whole process.
    """
    budget = DECODING if image_memory is None else MemoryBudget(image_memory)
    given = images_of("images", images)
    return DecodedBatches(given, prepare, working, batch_size=batch_size, budget=budget)


class DecodedBatches(Generic[T]):
    """Batches of prepared images, each with its name or with the error of what is no image.

    While one batch is used, the next one is decoded; not more is taken from `images`.

    Parameters
    ----------
    images : Iterable[Any]
        See `images_of`; an error of the iterator, or of an item that cannot be an image, is raised
        after the images before it.
    prepare, working : Callable[[Picture], T], Working
        What is made of an image, and how much memory that takes beside it.
    batch_size : int
        Images in a batch.
    budget : MemoryBudget
        Memory for decoding, over all threads.
    """

    def __init__(
        self,
        images: Iterable[Any],
        prepare: Callable[[Picture], T],
        working: Working,
        *,
        batch_size: int,
        budget: MemoryBudget,
    ) -> None:
        self._images = enumerate(images)
        self._prepare, self._working = prepare, working
        self._batch_size, self._budget = batch_size, budget
        self._failure: Exception | None = None
        self._stop = threading.Event()
        # Of each stream, set once the image that came last has been read: the next waits for it.
        self._read: dict[Hashable, threading.Event] = {}

    def __iter__(self) -> Generator[Batch[T], None, None]:
        threads = min(_DECODING_THREADS, os.cpu_count() or 1)
        pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        try:
            coming = self._submit(pool)
            while coming:
                batch = [(name, future.result()) for name, future in coming]
                coming = self._submit(pool)
                yield batch
            if self._failure is not None:
                raise self._failure
        finally:
            self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor) -> list[tuple[Path, Future[T | ImageError]]]:
        """Have the images of the next batch decoded, as many as there are before a failure."""
        submitted: list[tuple[Path, Future[T | ImageError]]] = []
        self._read = {key: read for key, read in self._read.items() if not read.is_set()}
        try:
            while self._failure is None and len(submitted) < self._batch_size:
                index, image = next(self._images)
                check_source("images", image)
                name = name_of(image, index)
                submitted.append((name, pool.submit(self._decode_in_order(image, name))))
        except StopIteration:
            pass
        except Exception as error:
            self._failure = error
        return submitted

    def _decode_in_order(self, image: Any, name: Path) -> Callable[[], T | ImageError]:
        """Return what decodes an image, after those before it that come through its stream."""
        key = stream_of(image)
        if key is None:
            return lambda: self._decode(image, name)
        before, read = self._read.get(key), threading.Event()
        self._read[key] = read

        def decode() -> T | ImageError:
            try:
                if before is not None:  # which a thread has begun: they are begun in order
                    before.wait()
                return self._decode(image, name)
            finally:
                read.set()

        return decode

    def _decode(self, image: Any, name: Path) -> T | ImageError:
        try:
            with open_picture(
                image, name, working=self._working, budget=self._budget, stop=self._stop
            ) as picture:
                return self._prepare(picture)
        except ImageError as error:
            # Without its traceback, which would keep what was decoded of the image.
            return ImageError(error.path, error.reason)
