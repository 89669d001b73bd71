"""Batches of one orientation: images wider than high apart from the others.

A batch of both would be padded to a square. Source: the grouped sampler of the published Mask
R-CNN; an epoch has every image at least once, and some twice where an orientation does not fill its
last batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..training.random_numbers import epoch_generator

__all__ = ["OrientedOrder"]


class OrientedOrder:
    """The order of an epoch, for `training.sampling.EpochBatches`.

    Parameters
    ----------
    is_wide : Sequence[bool]
        Of each image, whether it is wider than high.
    seed : int
        Of the run: decides the order.
    batch_size, ranks : int
        Images per process and batch, and how many processes there are.
    """

    def __init__(self, is_wide: Sequence[bool], seed: int, batch_size: int, ranks: int = 1) -> None:
        wide = torch.as_tensor(np.asarray(is_wide, bool))
        self._groups = [torch.nonzero(wide == of).flatten() for of in (False, True)]
        self._seed = seed
        self._batch_size = batch_size
        self._ranks = ranks

    def __len__(self) -> int:
        """Images of an epoch: batches of all processes that are full."""
        step = self._batch_size * self._ranks
        return sum(-(-len(group) // step) * step for group in self._groups)

    def __call__(self, epoch: int) -> Tensor:
        """Return the indices of the images of an epoch, int64 [n]."""
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
        batches = batches[torch.randperm(len(batches), generator=generator)]
        # Processes take every so many-th position, so their batches are interleaved.
        return batches.view(-1, self._ranks, self._batch_size).transpose(1, 2).flatten()
