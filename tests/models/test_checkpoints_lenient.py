"""Entries that are no weights do not spoil a file that is read leniently, nor pass for weights."""

from __future__ import annotations

import re

import pytest
import torch
from weights_corpus import skeleton

from transnext_models import create_model
from transnext_models.checkpoints import CheckpointError, load_checkpoint, read_weights

NO_WEIGHTS = {
    "block1.0.attn.relative_pos_index": torch.zeros(4, dtype=torch.int64),
    "num_batches_tracked": torch.tensor(3),
    "mask": torch.ones(3, dtype=torch.bool),
    "packed": torch.zeros(3).to(torch.float8_e4m3fn),
    "step": 5,
    "note": "text",
    "nothing": None,
    "history": [1.0, 2.0],
    "total_ops": torch.tensor(float("nan")),
}


@pytest.mark.parametrize("name", NO_WEIGHTS)
def test_counters_do_not_spoil_a_file_that_is_read_leniently(tmp_path, name):
    path = tmp_path / "x.pth"
    torch.save({**skeleton(), name: NO_WEIGHTS[name]}, path)
    with pytest.raises(CheckpointError, match=rf"x\.pth: .*'{re.escape(name)}'"):
        read_weights(path)
    weights = read_weights(path, strict=False)
    assert weights.state_dict.keys() == skeleton().keys()
    assert list(weights.not_weights) == [name]
    assert "total_ops" in weights.not_weights or "is " in weights.not_weights[name]


def test_leniently_loaded_models(tmp_path):
    torch.manual_seed(0)
    state = create_model("transnext_pico").state_dict()
    path = tmp_path / "x.pth"
    torch.save({**state, **NO_WEIGHTS}, path)
    model = create_model("transnext_pico")
    before = model.norm1.weight.clone()
    with pytest.raises(CheckpointError, match="relative_pos_index"):
        load_checkpoint(model, path)
    assert torch.equal(model.norm1.weight, before)
    report = load_checkpoint(model, path, strict=False)
    assert report.loaded == len(state)
    assert set(report.unused) == set(NO_WEIGHTS)
    for name, tensor in state.items():
        assert torch.equal(model.state_dict()[name], tensor)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(24, dtype=torch.int8), 5, None, torch.tensor(float("inf"))]
)
def test_a_weight_of_the_model_is_never_left_out_for_being_none(tmp_path, wrong):
    state = create_model("transnext_pico").state_dict()
    path = tmp_path / "x.pth"
    torch.save({**state, "norm1.weight": wrong}, path)
    model = create_model("transnext_pico")
    before = model.norm2.weight.clone()
    with pytest.raises(CheckpointError, match=r"x\.pth: .*'norm1\.weight'"):
        load_checkpoint(model, path, strict=False)
    assert torch.equal(model.norm2.weight, before)


def test_counters_of_the_model_itself_stay_as_they_are(tmp_path):
    """A head with batch norm, say, around the network's own modules."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    state = model.state_dict()
    state["1.num_batches_tracked"] = torch.tensor(7)
    path = tmp_path / "x.pth"
    torch.save(state, path)
    report = load_checkpoint(model, path, strict=False)
    assert report.kept == ("1.num_batches_tracked",)
    torch.save({**state, "1.num_batches_tracked": torch.tensor(7.5)}, path)
    with pytest.raises(CheckpointError, match="is a weight, the model's is int64"):
        load_checkpoint(model, path, strict=False)
