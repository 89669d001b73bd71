"""The order of shards that can only be read in order, the same whenever an epoch is entered.

Shards are put in an order by (seed, epoch); process r of R takes shards r, r + R, … of it, and of
these lane l of L takes shards l, l + L, …, where L is 1, 2, 4, 8 or 16. A lane reads its shards
one after another, over and over, and takes images from a buffer at random. Batch b of an epoch
comes from lane b mod L, so whichever loading process is asked for it, it opens that lane and passes
over what earlier batches took: the images of a batch follow from (seed, epoch, b, R) and the batch
size, not from how many processes load. Where their number divides L, none reads a shard that
another reads too.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Sequence

import numpy as np

from ..random_numbers import lane_generator
from ..sampling import shuffled_order
from .openers import opened_stream
from .shards import ShardSample, samples
from .tar_members import ArchiveError, Stream

__all__ = ["Lanes", "epoch_shards", "power_of_two", "stream_samples"]

_MOST_LANES = 16
_SHARDS_OF_A_LANE = 4  # at least, so that no lane is much shorter than another and begins anew
_BUFFERED = 128  # images of a lane
_BUFFERED_BYTES = 32 << 20

Samples = Generator[ShardSample, None, None]


class Lanes:
    """Batches of encoded images of one process.

    Parameters
    ----------
    shards : Sequence[str]
        All shards.
    seed : int
        Of the run.
    batch_size : int
        Images of a batch.
    rank, ranks : int
        Number of this process, and of how many.
    repeats : int
        How often each image comes in a row.
    """

    def __init__(
        self,
        shards: Sequence[str],
        seed: int,
        batch_size: int,
        rank: int = 0,
        ranks: int = 1,
        repeats: int = 1,
    ) -> None:
        self._shards = shards
        self._seed = seed
        self._batch_size = batch_size
        self._rank = rank
        self._ranks = ranks
        self._repeats = repeats
        self._open: dict[int, tuple[int, int, Samples]] = {}  # epoch and next turn of a lane

    def batch(self, epoch: int, batch: int) -> list[ShardSample]:
        """Return the images of a batch of an epoch; quick in the order of batches."""
        shards = epoch_shards(self._shards, self._seed, epoch, self._rank, self._ranks)
        lanes = power_of_two(len(shards) // _SHARDS_OF_A_LANE)
        turn, lane = divmod(batch, lanes)
        at, after, images = self._open.pop(lane, (-1, 0, None))
        if images is None or at != epoch or after > turn:
            if images is not None:
                images.close()
            random = lane_generator(self._seed, epoch, self._rank, lane)
            images, after = _lane_images(shards[lane::lanes], random, self._repeats), 0
        passed = (turn - after) * self._batch_size
        taken = list(itertools.islice(images, passed, passed + self._batch_size))
        self._open[lane] = (epoch, turn + 1, images)
        return taken

    def close(self) -> None:
        """Close what is open: commands end, connections are given back."""
        for _, _, images in self._open.values():
            images.close()
        self._open.clear()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}}


def _lane_images(shards: Sequence[str], random: np.random.Generator, repeats: int) -> Samples:
    """Yield the images of a lane without an end: all of them before any comes again."""
    while True:
        found = False
        buffer: list[ShardSample] = []
        held = 0
        for sample in stream_samples(shards):
            found = True
            buffer.append(sample)
            held += sample.size
            while len(buffer) > _BUFFERED or held > _BUFFERED_BYTES:
                chosen = _taken(buffer, int(random.integers(len(buffer))))
                held -= chosen.size
                yield from itertools.repeat(chosen, repeats)
        while buffer:
            chosen = _taken(buffer, int(random.integers(len(buffer))))
            yield from itertools.repeat(chosen, repeats)
        if not found:
            raise ArchiveError(shards[0], "and the other shards read with it are empty")


def power_of_two(most: int) -> int:
    """Return the number of lanes, at most 16: the largest power of two up to `most`."""
    return 1 << (max(1, min(most, _MOST_LANES)).bit_length() - 1)


def epoch_shards(shards: Sequence[str], seed: int, epoch: int, rank: int, ranks: int) -> list[str]:
    """Return the shards that a process reads in an epoch, in order."""
    order = shuffled_order(len(shards), seed, epoch).tolist()
    return [shards[index] for index in order[rank::ranks]]


def stream_samples(shards: Sequence[str]) -> Iterator[ShardSample]:
    """Yield the samples of shards, one shard after another."""
    for shard in shards:
        with opened_stream(shard) as file:
            for sample in samples(Stream(file), shard, with_images=True):
                yield sample._replace(name=f"{shard}: {sample.name}")


def _taken(buffer: list[ShardSample], index: int) -> ShardSample:
    """Take one out, in a time that does not grow with the buffer."""
    buffer[index], buffer[-1] = buffer[-1], buffer[index]
    return buffer.pop()
