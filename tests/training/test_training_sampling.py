"""Order and random numbers are functions of a place in the run, for every number of processes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transnext_models.classification.preprocess import Preprocess
from transnext_models.training.data import ImageData
from transnext_models.training.random_numbers import epoch_generator, seed_sample, seed_step
from transnext_models.training.recipes import get_recipe
from transnext_models.training.sampling import (
    EpochBatches,
    Shard,
    repeated_order,
    shuffled_order,
)


def _served(batches: EpochBatches, epoch: int, first: int = 0) -> list[list[tuple[int, ...]]]:
    batches.start(epoch, first)
    return [[tuple(sample) for sample in batch] for batch in batches]


@given(
    length=st.integers(1, 60),
    batch_size=st.integers(1, 7),
    ranks=st.integers(1, 5),
    limit=st.none() | st.integers(1, 10),
    epoch=st.integers(0, 5),
    data=st.data(),
)
def test_processes_share_every_batch_and_any_start_is_a_rest(
    length: int, batch_size: int, ranks: int, limit: int | None, epoch: int, data: st.DataObject
) -> None:
    def order(epoch: int) -> torch.Tensor:
        return shuffled_order(length, 7, epoch)

    shards = [EpochBatches(order, length, batch_size, rank, ranks, limit) for rank in range(ranks)]
    served = [_served(shard, epoch) for shard in shards]
    count = length // (batch_size * ranks)
    count = count if limit is None else min(count, limit)
    assert {len(shard) for shard in shards} == {len(batches) for batches in served} == {count}
    for number, parts in enumerate(zip(*served, strict=True)):
        together = sorted((sample for part in parts for sample in part), key=lambda s: s[1])
        first = number * batch_size * ranks
        positions = range(first, first + batch_size * ranks)
        assert together == [(epoch, place, int(order(epoch)[place])) for place in positions]
    start = data.draw(st.integers(0, count))
    for shard, batches in zip(shards, served, strict=True):
        assert _served(shard, epoch, start) == batches[start:]


@given(length=st.integers(0, 50), ranks=st.integers(1, 9))
def test_validation_sees_every_image_once(length: int, ranks: int) -> None:
    shards = [list(Shard(length, rank, ranks)) for rank in range(ranks)]
    assert sorted(index for shard in shards for index in shard) == list(range(length))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_order_depends_on_seed_and_epoch() -> None:
    orders = [shuffled_order(50, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert torch.equal(orders[1], shuffled_order(50, 0, 1))


def _published(length: int, rank: int, ranks: int, epoch: int) -> list[int]:
    """The published sampler's indices, written from its description."""
    generator = torch.Generator().manual_seed(epoch)
    repeated = torch.randperm(length, generator=generator).repeat_interleave(3).tolist()
    return repeated[rank::ranks][: length // 256 * 256 // ranks]


@pytest.mark.parametrize("ranks", [1, 2, 8])
@pytest.mark.parametrize("length", [256, 1000, 5000])
def test_repeated_augmentation_is_the_published_one(length: int, ranks: int) -> None:
    kept = length // 256 * 256
    for epoch in (0, 3):
        for rank in range(ranks):
            batches = EpochBatches(
                lambda epoch: repeated_order(length, 3, epoch), kept, 4, rank, ranks
            )
            found = [sample[2] for batch in _served(batches, epoch) for sample in batch]
            assert found == _published(length, rank, ranks, epoch)


def test_an_imagenet_epoch_has_1251_steps() -> None:
    for ranks in (1, 2, 8):
        kept = 1_281_167 // 256 * 256
        batches = EpochBatches(shuffled_order, kept, 1024 // ranks, 0, ranks)  # type: ignore[arg-type]
        assert len(batches) == 1251


def _drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_streams_are_their_key_s_alone() -> None:
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (2**32 - 1, 10**6, 10**9)]
    seen = set()
    for seed in (seed_sample, seed_step):
        for key in keys:
            seed(*key)
            first = _drawn()
            _drawn()
            seed(*key)
            assert _drawn() == first
            seen.add(first)
    seen.add(tuple(torch.rand(3, generator=epoch_generator(0, 0)).tolist()))
    assert len(seen) == 2 * len(keys) + 1


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_batch_is_the_same_from_any_start_and_any_worker(images: Path, workers: int) -> None:
    def batches(workers: int, first: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        preprocess = Preprocess(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        data = ImageData(str(images), get_recipe("imagenet_224"), preprocess, 4, workers, seed=3)
        result = [data.training_batch(batch) for batch in data.train_batches(2, first)]
        # The loading processes stay, and serve another epoch as well.
        again = [data.training_batch(batch) for batch in data.train_batches(2, first)]
        data.close()
        assert all(torch.equal(a[0], b[0]) for a, b in zip(result, again, strict=True))
        return result

    expected = batches(0, 0)
    # The copies of an image are augmented each in its own way.
    assert (
        len({tuple(image.flatten().tolist()) for images, _ in expected for image in images}) == 16
    )
    for first in (0, 2):
        for (image, label), found in zip(expected[first:], batches(workers, first), strict=True):
            assert torch.equal(image, found[0])
            assert torch.equal(label, found[1])
