"""The operators of a model on a GPU are counted, and no more of them than were reached."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.count_operators import OperatorCount, count_forward, count_training_step


def test_what_launches_work_counts_with_its_bytes() -> None:
    """Views and allocations count nothing; what is read and written counts once each."""
    x, y = torch.ones(4, 6), torch.ones(6)
    with OperatorCount() as count:
        z = x.t().reshape(6, 4)[1:]  # views
        torch.empty(100).view(10, 10)
        x + y
        z.mul_(2.0)
        x.copy_(y.expand(4, 6))
    assert count.calls == {"aten.add": 1, "aten.mul_": 1, "aten.copy_": 1}
    # The expanded row is read as the 6 elements that it is.
    assert count.moved == {
        "aten.add": 4 * (24 + 6 + 24), "aten.mul_": 4 * (20 + 20), "aten.copy_": 4 * (6 + 24)
    }  # fmt: skip


def test_a_pause_counts_nothing() -> None:
    """Constants that a process computes once are left out."""
    with OperatorCount() as count:
        with count.paused():
            torch.ones(2) * 2
        torch.ones(2) * 2
    assert count.calls["aten.mul"] == 1


@pytest.mark.slow
def test_a_frozen_forward_runs_few_operators() -> None:
    """A float16 forward of Tiny, 224x224, batch 64: 785 operators and 15.6 GB layer by layer."""
    count = count_forward(prepare=lambda model: model.freeze())
    assert count.operators <= 288
    assert count.gigabytes <= 11.6


@pytest.mark.slow
def test_a_training_step_runs_few_operators() -> None:
    """A float16 training step of Tiny, 224x224, batch 64: 2154 operators, 49.9 GB by layers."""
    count = count_training_step()
    assert count.operators <= 880
    assert count.gigabytes <= 33.6


def test_the_count_is_of_what_runs_unwatched() -> None:
    """The position bias and pooling run as operators of ours, which a watching mode prevents."""
    prepared: list[nn.Module] = []

    def prepare(model: nn.Module) -> nn.Module:
        prepared.append(model)
        return model

    count = count_forward("transnext_micro", batch=2, size=64, prepare=prepare)
    assert not prepared[0].training
    assert count.calls["transnext.position_bias_table"] == 21
    assert count.calls["transnext.gelu_pool"] == 19
    assert count.calls["aten.gelu"] == 0
