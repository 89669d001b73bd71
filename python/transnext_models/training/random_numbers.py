"""Random numbers that depend on the position in a run, never on how it was reached.

A run that was interrupted draws what one that was not would have drawn, with nothing about
generators in its checkpoints, and any number of loading processes draws the same, because every
stream starts from a key:

    order of an epoch           (seed, epoch)
    sample i of an epoch        (seed, epoch, i)       crop, flip, RandAugment, erasing
    step of a process           (seed, step, rank)     mixup, drop path, dropout, augmented digits
    lane of streamed shards     (seed, epoch, rank, lane)     buffer that images are drawn from

A key becomes a state by NumPy's `SeedSequence`, which keeps neighbouring keys apart.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["epoch_generator", "lane_generator", "sample_generator", "seed_sample", "seed_step"]

_ORDER, _SAMPLE, _STEP, _LANE = range(4)  # the first word of each key: no stream is another's
_WORDS = 4


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Return the generator that puts the samples of an epoch in order."""
    return torch.Generator().manual_seed(_as_int64(_words(_ORDER, seed, epoch)))


def lane_generator(seed: int, epoch: int, rank: int, lane: int) -> np.random.Generator:
    """Return the generator that draws the images of one lane of streamed shards."""
    return np.random.default_rng(np.random.SeedSequence((_LANE, seed, epoch, rank, lane)))


def sample_generator(seed: int, epoch: int, position: int) -> np.random.Generator:
    """Return a generator for the sample at `position` in the order of `epoch`.

    For transforms that take a generator, where `seed_sample` is for those that take the global one.
    """
    return np.random.default_rng(np.random.SeedSequence((_SAMPLE, seed, epoch, position)))


def seed_sample(seed: int, epoch: int, position: int) -> None:
    """Start the random numbers of the sample at `position` in the order of `epoch`.

    Seeds Python's, NumPy's and PyTorch's global generators (of the CPU): image transforms draw from
    all three. Called wherever the sample is loaded, in the training process or another.
    """
    words = _words(_SAMPLE, seed, epoch, position)
    _seed_python_and_numpy(words)
    torch.default_generator.manual_seed(_as_int64(words))


def seed_step(seed: int, step: int, rank: int) -> None:
    """Start the random numbers of a batch on process `rank`.

    `step` counts the batches from the start of the run.
    Seeds Python's, NumPy's and PyTorch's global generators, of all devices.
    """
    words = _words(_STEP, seed, step, rank)
    _seed_python_and_numpy(words)
    torch.manual_seed(_as_int64(words))


def _words(*key: int) -> NDArray[np.uint32]:
    return np.random.SeedSequence(key).generate_state(_WORDS, np.uint32).astype(np.uint32)


def _as_int64(words: NDArray[np.uint32]) -> int:
    return int(words[:2].view(np.uint64)[0])


def _seed_python_and_numpy(words: NDArray[np.uint32]) -> None:
    np.random.seed(words)  # noqa: NPY002 -- timm draws from NumPy's global generator
    random.seed(words.tobytes())
