"""What a checkpoint holds comes back whole, with the gradient scaler and every process's loss."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from torch import nn

from training.short_runs import assert_equal
from transnext_models.training.state import TrainingState


def _state(ema_decay: float | None = 0.5) -> TrainingState:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[precision])
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    network, optimizers = fabric.setup(model, optimizer)
    state = TrainingState(fabric, model, optimizer, ema_decay)
    state.advance = lambda: _advance(state, network, optimizers)  # type: ignore[attr-defined]
    return state


def _advance(state: TrainingState, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    loss = network(torch.ones(1, 3)).float().square().sum()
    state._fabric.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    state.add_loss(loss, 1)
    state.step_done()


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_content_comes_back(ema_decay: float | None) -> None:
    state, other = _state(ema_decay), _state(ema_decay)
    for _ in range(3):
        state.advance()  # type: ignore[attr-defined]
    state.rows.append({"epoch": 0})
    state.best = {"epoch": 0, "val_top1": 0.5}
    content = state.content()
    assert content["training"]["precision"]["scale"] == 16.0  # grown once, one step towards twice
    assert content["training"]["precision"]["_growth_tracker"] == 1
    assert content["training"]["loss"][0, 1] == 3
    other.restore(copy.deepcopy(content))  # as from a file: nothing is shared
    assert_equal(content, other.content())
    for each in (state, other):
        each.advance()  # type: ignore[attr-defined]
    assert_equal(state.content(), other.content())


def test_loss_of_another_number_of_processes_is_kept_in_sum() -> None:
    state = _state()
    content = state.content()
    content["training"]["loss"] = torch.tensor([[1.5, 2.0], [2.5, 3.0]], dtype=torch.float64)
    state.restore(content)
    assert state.loss.tolist() == [4.0, 5.0]


def test_an_epoch_ends_and_begins() -> None:
    state = _state()
    state.advance()  # type: ignore[attr-defined]
    state.finished = True
    state.next_epoch()
    assert (state.epoch, state.step, state.finished, state.global_step) == (1, 0, False, 1)
    assert state.loss.tolist() == [0.0, 0.0]
