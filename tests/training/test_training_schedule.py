"""The learning rate of every epoch is the published one, however a run has got there."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch

from training import short_runs
from training.short_runs import StopAfter, metrics, resumed
from transnext_models.training.module import ClassifierModule
from transnext_models.training.recipes import RECIPES
from transnext_models.training.run import RunOptions, RunStopped, train
from transnext_models.training.settings import Settings

# What training at 1024 images writes into the released log, to all digits it has.
PUBLISHED = {
    0: 1e-6, 1: 1e-6, 2: 2.008e-4, 3: 4.006e-4, 5: 8.002e-4, 6: 9.9932162e-4, 50: 9.36250837e-4,
    100: 7.56975501e-4, 150: 5.10183533e-4, 250: 7.89326966e-5, 299: 1.01085617e-5,
}  # fmt: skip


def _expected(epoch: int) -> float:
    """The rate that the published code trains `epoch` at: set after the epoch before it."""
    t = max(epoch - 1, 0)
    if t < 5:
        return 1e-6 + t * (1e-3 - 1e-6) / 5
    return 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * t / 300)) / 2


def _module(name: str, epochs: int, factor: float = 1.0) -> ClassifierModule:
    return ClassifierModule(torch.nn.Linear(2, 2), RECIPES[name], epochs, factor)


def _rates(module: ClassifierModule, first: int, epochs: int) -> list[float]:
    rates = [module.set_rate(epoch) for epoch in range(first, epochs)]
    assert all(group["lr"] == rates[-1] for group in module.optimizer.param_groups)
    return rates


@pytest.mark.parametrize("name", ["imagenet_224", "imagenet_256"])
def test_all_300_rates_are_the_published_ones(name: str) -> None:
    rates = _rates(_module(name, 300), 0, 300)
    assert rates == pytest.approx([_expected(epoch) for epoch in range(300)], rel=0, abs=1e-12)
    for epoch, rate in PUBLISHED.items():
        assert rates[epoch] == pytest.approx(rate, rel=1e-8)


@pytest.mark.parametrize("start", [1, 2, 6, 150])
def test_rates_after_a_resume_are_the_same(start: int) -> None:
    before = _module("imagenet_224", 300)
    _rates(before, 0, start)
    after = _module("imagenet_224", 300)
    after.optimizer.load_state_dict(copy.deepcopy(before.optimizer.state_dict()))
    expected = [_expected(epoch) for epoch in range(start, 300)]
    assert _rates(after, start, 300) == pytest.approx(expected, rel=0, abs=1e-12)


def test_the_digits_train_at_the_rate_of_their_own_epoch() -> None:
    """Their schedule is the one by which the shipped model was trained."""
    rates = _rates(_module("digits", 60), 0, 60)
    assert rates[:2] == pytest.approx([3e-4, 3e-4 + (2e-3 - 3e-4) / 2], rel=1e-12)
    cosine = [
        1e-5 + (2e-3 - 1e-5) * (1 + math.cos(math.pi * epoch / 60)) / 2 for epoch in range(2, 60)
    ]
    assert rates[2:] == pytest.approx(cosine, rel=1e-12)


def test_a_factor_multiplies_the_whole_schedule() -> None:
    full, half = (_rates(_module("imagenet_224", 300, factor), 0, 300) for factor in (1.0, 0.5))
    assert half == pytest.approx([rate / 2 for rate in full], rel=1e-9)


def test_fine_tuning_rate_is_constant() -> None:
    assert _rates(_module("imagenet_384_ft", 5), 0, 5) == [1e-5] * 5


@pytest.mark.parametrize(("scale", "factor"), [(False, 1.0), (True, 2 * 4 * 3 / 1024)])
def test_rates_are_scaled_with_the_batch_on_demand_only(
    tmp_path: Path, scale: bool, factor: float
) -> None:
    options = RunOptions(
        recipe="imagenet_224", output=tmp_path, batch_size=2, accumulate=4, scale_lr=scale
    )
    settings = Settings.of(options, processes=3)
    assert settings.total_batch == 24
    assert settings.peak_lr == pytest.approx(1e-3 * factor, rel=1e-12)
    assert settings.learning_rate_factor == pytest.approx(factor, rel=1e-12)


def test_a_run_trains_at_these_rates_also_when_it_goes_on(
    tmp_path: Path, images_of_one_batch: RunOptions
) -> None:
    options = images_of_one_batch
    for _ in range(2):
        with pytest.raises(RunStopped):
            train(options, [StopAfter(2)])
        options = resumed(options)
    train(options)
    found = [float(row["lr"]) for row in metrics(options.output)]
    expected = []
    for epoch in range(6):
        t = max(epoch - 1, 0)
        cosine = 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * t / 6)) / 2
        expected.append(1e-6 + t * (1e-3 - 1e-6) if t < 1 else cosine)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.fixture
def images_of_one_batch(tmp_path: Path, images: Path) -> RunOptions:
    """Six epochs of one step each."""
    return dataclasses.replace(
        short_runs.images(tmp_path / "run", images),
        epochs=6,
        limit_train_batches=1,
        limit_val_batches=1,
    )
