"""The trainer's steps are the published ones: AdamW, clipping, gradient scaler, watched losses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from torch import nn

from training import golden_steps
from training.short_runs import digits
from transnext_models.training.loss_watch import LossWatch
from transnext_models.training.module import ClassifierModule
from transnext_models.training.recipes import Recipe, get_recipe
from transnext_models.training.run import train
from transnext_models.training.state import TrainingState

PUBLISHED = get_recipe("imagenet_224")
FIRST_SCALE = 1024.0
CONSTANT = dataclasses.replace(PUBLISHED, schedule="constant")


@pytest.mark.parametrize("fused", [False, True], ids=["published", "fused"])
def test_three_steps_are_the_golden_ones(fused: bool) -> None:
    expected = json.loads(golden_steps.FILE.read_text())
    model = golden_steps.golden_model()
    module = ClassifierModule(model, dataclasses.replace(CONSTANT, fused=fused), epochs=1)
    assert module.set_rate(0) == golden_steps.RATE
    batch = golden_steps.golden_batch()
    for step in expected:
        # In float64 throughout, which the trainer's loss is not.
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        assert loss.item() == pytest.approx(step["loss"], rel=1e-9)
        assert module.training_step(batch).item() == pytest.approx(step["loss"], rel=1e-5)
        loss.backward()
        norm = float(nn.utils.get_total_norm([x.grad for x in model.parameters()]))  # type: ignore[misc]
        assert norm == pytest.approx(step["norm"], rel=1e-9)
        assert norm > 2 * golden_steps.NORM  # so clipping matters
        module.clip_gradients(None)
        module.optimizer.step()
        module.optimizer.zero_grad()
        weights = {name: x.detach().numpy() for name, x in model.named_parameters()}
        found = golden_steps.described(weights)
        assert found["sum_of_squares"] == pytest.approx(step["sum_of_squares"], rel=1e-10)
        assert found["sum"] == pytest.approx(step["sum"], rel=1e-8)
        assert found["first"].keys() == step["first"].keys()
        for name, values in step["first"].items():
            assert np.allclose(found["first"][name], values, rtol=0, atol=1e-9), name


def _scaled(recipe: Recipe) -> tuple[ClassifierModule, TrainingState, Any, Any]:
    """A layer trained in float16 with a scaler on the CPU."""
    scaler = torch.amp.GradScaler("cpu", init_scale=FIRST_SCALE, growth_interval=2)
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[precision])
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    module = ClassifierModule(model, recipe, epochs=1)
    network, optimizer = fabric.setup(model, module.optimizer)
    return module, TrainingState(fabric, model, module.optimizer, None), network, optimizer


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_are_clipped_without_their_scale(fused: bool) -> None:
    module, state, network, optimizer = _scaled(dataclasses.replace(CONSTANT, fused=fused))
    module.set_rate(0)
    state._fabric.backward(network(torch.ones(4, 3)).float().square().sum())
    gradient = module.model.weight.grad
    assert gradient is not None
    assert gradient.norm() > FIRST_SCALE
    module.clip_gradients(state.scaler)
    total = nn.utils.get_total_norm([x.grad for x in module.model.parameters()])  # type: ignore[misc]
    assert float(total) == pytest.approx(1.0, rel=1e-4)
    before = module.model.weight.detach().clone()
    optimizer.step()
    assert 0 < (module.model.weight - before).abs().max() < 2e-3


def test_a_new_scaler_begins_with_its_first_scale() -> None:
    _, state, network, optimizer = _scaled(CONSTANT)
    for _ in range(3):
        state._fabric.backward(network(torch.ones(4, 3)).float().square().sum())
        optimizer.step()
        optimizer.zero_grad()
    assert state.scaler is not None
    assert state.scaler.get_scale() == 2 * FIRST_SCALE
    state.reset_scaler()
    assert state.scaler.get_scale() == FIRST_SCALE
    assert state.scaler.state_dict()["_growth_tracker"] == 0
    state._fabric.backward(network(torch.ones(4, 3)).float().square().sum())
    optimizer.step()
    assert state.scaler.get_scale() == FIRST_SCALE


def test_every_epoch_has_a_new_scaler_as_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resets = []
    monkeypatch.setattr(
        TrainingState, "reset_scaler", lambda self: resets.append((self.epoch, self.step))
    )
    train(digits(tmp_path / "digits"))
    assert resets == []
    monkeypatch.setattr(
        "transnext_models.training.recipes.RECIPES",
        {"digits": dataclasses.replace(get_recipe("digits"), fresh_scaler=True)},
    )
    train(digits(tmp_path / "fresh"))
    assert resets == [(0, 0), (1, 0), (2, 0)]
    resets.clear()
    train(digits(tmp_path / "kept", keep_scaler=True))
    assert resets == []


class _Lost:
    """Makes the loss of one batch not finite, and counts the batches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, value: float) -> None:
        self.seen = 0
        step = ClassifierModule.training_step

        def lost(module: ClassifierModule, batch: Any) -> torch.Tensor:
            self.seen += 1
            loss = step(module, batch)
            return loss * value if self.seen == at else loss

        monkeypatch.setattr(ClassifierModule, "training_step", lost)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [1, 4, 8])
def test_a_loss_that_is_not_finite_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, at: int
) -> None:
    lost = _Lost(monkeypatch, at, value)
    epoch, rate = divmod(at - 1, 4)[0], r"\(learning rate \S+\)"
    message = rf"the loss of epoch {epoch}, step {at} {rate} is (nan|-?inf): lower --lr"
    with pytest.raises(RuntimeError, match=message):
        train(digits(tmp_path, limit_train_batches=4))
    assert lost.seen <= at + 1  # one step later at most


def test_weights_that_are_lost_are_not_written_over_good_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _Lost(monkeypatch, 3, float("nan"))
    with pytest.raises(RuntimeError, match="the loss of epoch 0, step 3 "):
        train(digits(tmp_path, limit_train_batches=4, checkpoint_every_steps=1))
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


class _Late:
    """A copy that arrives when it is told to."""

    def __init__(self) -> None:
        self.is_there = False
        self.waited = 0

    def query(self) -> bool:
        return self.is_there

    def synchronize(self) -> None:
        self.waited += not self.is_there


def test_losses_are_looked_at_without_waiting_for_them() -> None:
    """As on a device whose copies arrive late: eight steps ahead are allowed."""
    watch = LossWatch(torch.device("cpu"))
    copies = []
    for step in range(1, 12):
        watch.note(torch.tensor(float("nan") if step == 2 else 1.0), 0, step, 0.1)
        copies.append(_Late())
        watch._noted[-1].arrived = copies[-1]  # type: ignore[assignment]
        problem = watch.found()
        assert sum(copy.waited for copy in copies) == max(0, step - LossWatch.MOST)
        if step <= LossWatch.MOST + 1:
            assert problem is None
        else:
            assert problem is not None
            assert problem.step == 2
            break
    assert len(copies) == 10


def test_losses_that_have_arrived_are_seen_a_step_later() -> None:
    watch = LossWatch(torch.device("cpu"))
    watch.note(torch.tensor(float("inf")), 3, 7, 0.25)
    assert watch.found() is None
    watch.note(torch.tensor(1.0), 3, 8, 0.25)
    problem = watch.found()
    assert problem is not None
    assert str(problem).startswith("the loss of epoch 3, step 7 (learning rate 0.25) is inf")
    watch.note(torch.tensor(float("nan")), 3, 9, 0.25)
    problem = watch.all_found()
    assert problem is not None
    assert problem.step == 9
