"""A frozen model checks its weights no more, until something ends it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from models import changed_weights
from models.changed_weights import (
    BLOCKS,
    CHANGES_THAT_VERSIONS_SHOW,
    check_that_a_change_is_seen,
    fresh,
    run,
)
from small_model import images, small_model
from transnext_models.layers.derived import Derived, DerivesFromWeights
from transnext_ops.fingerprint import fingerprint


def derived(model):
    return [m.derived for m in model.modules() if isinstance(m, DerivesFromWeights)]


# Frozen models -----------------------------------------------------------------------------------


@pytest.fixture
def looked_at(monkeypatch):
    """Counts the times that weights are looked at."""
    from transnext_models.layers import derived as module

    calls = []

    def counting(weights):
        calls.append(len(weights))
        return fingerprint(weights)

    monkeypatch.setattr(module, "fingerprint", counting)
    return calls


def test_a_frozen_model_is_not_looked_at_again(looked_at):
    model, x = small_model(), images()
    first = run(model, x)
    assert len(looked_at) > BLOCKS
    model.freeze()
    looked_at.clear()
    assert torch.equal(run(model, x), first)
    assert torch.equal(run(model, x), first)
    assert not looked_at


def test_freezing_means_evaluation_and_keeps_gradients_as_they_are():
    model = small_model().train()
    assert model.freeze() is model
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    "thaw",
    [
        lambda model: model.freeze(False),
        lambda model: model.train().eval(),
        changed_weights.change_by_loading,
        changed_weights.change_by_assigning,
        lambda model: model.block1[0].load_state_dict(model.block1[0].state_dict()),
        lambda model: copy.deepcopy(model),
        lambda model: pickle.loads(pickle.dumps(model)),
    ],
    ids=["freeze(False)", "train", "loading", "assigning", "a block's loading", "copy", "pickle"],
)
def test_what_ends_it(thaw):
    model, x = small_model().freeze(), images()
    run(model, x)
    result = thaw(model)
    model = result if isinstance(result, torch.nn.Module) else model
    assert not model.block1[0].derived.frozen
    model.block1[0].attn.q.weight.data.mul_(1.5)
    assert torch.equal(run(model, x), fresh(model, x))


@pytest.mark.parametrize("change", CHANGES_THAT_VERSIONS_SHOW)
def test_an_edit_that_version_counters_show_ends_it_too(change):
    check_that_a_change_is_seen(small_model().freeze(), change)


def test_eval_forgets_although_the_model_stays_frozen():
    model, x = small_model().freeze(), images()
    run(model, x)
    changed_weights.change_through_data(model)
    model.eval()
    assert torch.equal(run(model, x), fresh(model, x))
    assert all(part.frozen for part in derived(model))


def test_a_frozen_model_moves():
    model, x = small_model().freeze(), images()
    expected = run(model, x)
    single = run(model.float(), x.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-4)
    assert all(part.frozen for part in derived(model))


def test_elsewhere_than_on_the_cpu_nothing_is_kept_unless_frozen():
    weights = [torch.nn.Parameter(torch.zeros(3, device="meta"))]
    kept, made = Derived(), []

    def derive():
        made.append(1)
        return len(made)

    with torch.no_grad():
        assert [kept.get(weights, "key", derive) for _ in range(3)] == [1, 2, 3]
        kept.frozen = True
        assert [kept.get(weights, "key", derive) for _ in range(3)] == [4, 4, 4]
    assert len(kept) == 1
