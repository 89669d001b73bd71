"""Batches of one orientation: images wider than high apart from the others.

A batch of both would be padded to a square. Source: the grouped sampler of the published Mask
R-CNN; an epoch has every image at least once, and some twice where an orientation does not fill its
last batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from ..training.random_numbers import epoch_generator
from ..training.sampling import Sample

__all__ = ["OrientedBatches"]


class OrientedBatches(Sampler[list[Sample]]):
    """Batches of samples for one process, as `training.sampling.EpochBatches`.

    Parameters
    ----------
    is_wide : Sequence[bool]
        Of each image, whether it is wider than high.
    seed : int
        Of the run: decides the order.
    batch_size : int
        Images per process and batch.
    rank, ranks : int
        Number of this process, and of how many.
    """

    def __init__(
        self, is_wide: Sequence[bool], seed: int, batch_size: int, rank: int = 0, ranks: int = 1
    ) -> None:
        wide = torch.as_tensor(np.asarray(is_wide, bool))
        self._groups = [torch.nonzero(wide == of).flatten() for of in (False, True)]
        self._seed = seed
        self._batch_size = batch_size
        self._rank, self._ranks = rank, ranks
        self._epoch, self._first = 0, 0
        step = batch_size * ranks
        self._batches = sum(-(-len(group) // step) for group in self._groups)

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self._batches

    def start(self, epoch: int, batch: int = 0) -> None:
        """Have the next iteration serve `epoch` from `batch` on."""
        self._epoch, self._first = epoch, batch

    def __iter__(self) -> Iterator[list[Sample]]:
        epoch, ranks = self._epoch, self._ranks
        batches = self._order(epoch)
        for batch in range(self._first, self._batches):
            number = batch * ranks + self._rank
            yield [
                Sample(epoch, number * self._batch_size + place, image)
                for place, image in enumerate(batches[number].tolist())
            ]

    def _order(self, epoch: int) -> torch.Tensor:
        """Return all batches of all processes, int64 [batches · ranks, batch_size]."""
        generator = epoch_generator(self._seed, epoch)
        step = self._batch_size * self._ranks
        rows = []
        for group in self._groups:
            if not len(group):
                continue
            shuffled = group[torch.randperm(len(group), generator=generator)]
            filled = -(-len(group) // step) * step
            repeats = -(-filled // len(group))
            rows.append(shuffled.repeat(repeats)[:filled].view(-1, self._batch_size))
        batches = torch.cat(rows)
        return batches[torch.randperm(len(batches), generator=generator)]
