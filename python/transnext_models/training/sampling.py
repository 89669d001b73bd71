"""Which images a process sees in which batch of an epoch, from any batch on.

The order of an epoch is a function of (seed, epoch). Process r of R takes positions r, r + R, … of
it, `batch_size` at a time, so that the batch of all processes together is the next `R · batch_size`
positions whatever R is; a rest that does not fill such a batch is left out. A sample carries its
place (epoch, position) with it to whoever loads it, since its random numbers depend on that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

from .random_numbers import epoch_generator

__all__ = ["EpochBatches", "Sample", "Shard", "repeated_order", "shuffled_order"]


class Sample(NamedTuple):
    """One image at one position of a run: what a training data set is asked for."""

    epoch: int
    position: int
    image: int


def shuffled_order(length: int, seed: int, epoch: int) -> Tensor:
    """All images once, int64 [length]."""
    return torch.randperm(length, generator=epoch_generator(seed, epoch))


def repeated_order(length: int, repeats: int, epoch: int) -> Tensor:
    """Repeated augmentation as published: int64 [length cut to a multiple of 256].

    A third (of three `repeats`) of the images, drawn by the epoch's number alone, each `repeats`
    times in a row. A data set of fewer than 256 images keeps its length.
    """
    from timm.data.distributed_sampler import RepeatAugSampler

    sampler = RepeatAugSampler(
        range(length),
        num_replicas=1,
        rank=0,
        num_repeats=repeats,
        selected_round=256 if length >= 256 else 0,
    )
    sampler.set_epoch(epoch)
    return torch.tensor(list(sampler))


class EpochBatches(Sampler[list[Sample]]):
    """Batches of samples for one process: the batch sampler of a training loader.

    Parameters
    ----------
    order : Callable[[int], Tensor]
        Indices of the images of an epoch, int64 [n], for the epoch's number.
    length : int
        N.
    batch_size : int
        Images per process and batch.
    rank, ranks : int
        Number of this process, and of how many.
    limit : int | None
        Cuts an epoch to so many batches.
    """

    def __init__(
        self,
        order: Callable[[int], Tensor],
        length: int,
        batch_size: int,
        rank: int = 0,
        ranks: int = 1,
        limit: int | None = None,
    ) -> None:
        self._order = order
        self._batch_size = batch_size
        self._rank = rank
        self._ranks = ranks
        batches = length // (batch_size * ranks)
        self._batches = batches if limit is None else min(batches, limit)
        self._epoch = 0
        self._first = 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self._batches

    def start(self, epoch: int, batch: int = 0) -> None:
        """Have the next iteration serve `epoch` from `batch` on."""
        self._epoch = epoch
        self._first = batch

    def __iter__(self) -> Iterator[list[Sample]]:
        epoch, step = self._epoch, self._batch_size * self._ranks
        order = self._order(epoch)
        for batch in range(self._first, self._batches):
            positions = range(batch * step + self._rank, (batch + 1) * step, self._ranks)
            images = order[positions.start : positions.stop : positions.step].tolist()
            yield [
                Sample(epoch, position, image)
                for position, image in zip(positions, images, strict=True)
            ]


class Shard(Sampler[int]):
    """Every `ranks`-th image in the data set's order: each image on one process, none twice."""

    def __init__(self, length: int, rank: int = 0, ranks: int = 1) -> None:
        self._indices = range(rank, length, ranks)

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)
