"""Which of the state dicts in a file is read: found by the usual names, or asked for."""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from weights_corpus import skeleton

from transnext_models import create_model
from transnext_models.checkpoints import (
    CheckpointError,
    WeightsWarning,
    convert,
    load_checkpoint,
    read_state_dict,
    read_weights,
)
from transnext_models.classifier import Classifier

RAW, AVERAGED, OTHER = 1.0, 2.0, 3.0


def network(value: float, prefix: str = "") -> OrderedDict[str, torch.Tensor]:
    """Return a state dict whose every entry is `value`."""
    return OrderedDict(
        (prefix + name, torch.full_like(tensor, value)) for name, tensor in skeleton().items()
    )


class Average:
    """Stands for an object that a training program keeps: pickled whole, not as a state dict."""

    def __init__(self) -> None:
        self.module = network(AVERAGED)


def read(tmp_path: Path, content: Any, **options: Any) -> Any:
    path = tmp_path / "x.pth"
    torch.save(content, path)
    return read_weights(path, **options)


def value(weights: Any) -> float:
    assert weights.state_dict.keys() == skeleton().keys()
    (only,) = {float(tensor.mean()) for tensor in weights.state_dict.values()}
    return only


# -- one network ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        *("state_dict", "model", "model_state_dict", "net", "network", "params", "weights", "ema"),
        *("teacher", "student", "module", "state_dict_ema", "model_ema", "params_ema"),
        *(
            "ema_state_dict",
            "net_state_dict",
            "model_weights",
            "swa_model",
            "EMA",
            "Model",
            "net-1",
        ),
        *("backbone", "encoder", "anything_at_all", "7"),
    ],
)
def test_wherever_the_only_network_is(tmp_path, key):
    content = {"epoch": 3, key: network(RAW), "optimizer": {"state": {0: {"m": torch.zeros(2)}}}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights = read(tmp_path, content)
    assert (value(weights), weights.key, weights.other_keys) == (RAW, key, ())


@pytest.mark.parametrize(
    ("content", "key", "prefix"),
    [
        (network(RAW), "", ""),
        ({**network(RAW), "rng": torch.zeros(3)}, "", ""),
        ({"model": network(RAW), "rng_state": torch.zeros(3)}, "model", ""),
        ({"state_dict": network(RAW, "model.")}, "state_dict", "model."),
        ({"state_dict": network(RAW, "model._orig_mod.")}, "state_dict", "model._orig_mod."),
        ({"model": network(RAW, "module.")}, "model", "module."),
        ({"model": network(RAW, "encoder.")}, "model", "encoder."),
        ({"ema": {"module": network(RAW), "decay": 0.99}}, "ema.module", ""),
        ({"ema": {"n_averaged": torch.tensor(3.0), **network(RAW, "module.")}}, "ema", "module."),
        ({"ema": {"shadow": network(RAW), "updates": 7}}, "ema.shadow", ""),
        ({"model": {"state_dict": {"net": network(RAW)}}}, "model.state_dict.net", ""),
        ({"checkpoint": {"model": network(RAW)}}, "checkpoint.model", ""),
        ({"a.b": network(RAW)}, "a.b", ""),
    ],
)
def test_around_and_before_the_names(tmp_path, content, key, prefix):
    if isinstance(content, dict) and "rng" in content:
        weights = read(tmp_path, content)
        assert weights.state_dict.pop("rng").shape == (3,)
    else:
        weights = read(tmp_path, content)
    assert (value(weights), weights.key, weights.prefix) == (RAW, key, prefix)
    if key:  # what was found can be asked for
        assert value(read(tmp_path, content, key=key)) == RAW


# -- raw and averaged -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("params", "params_ema"),
        ("model", "ema"),
        ("model_state_dict", "ema_state_dict"),
        ("net", "net_ema"),
        ("student", "teacher"),
        ("model", "swa_state_dict"),
        ("state_dict", "averaged_model"),
        ("whatever", "ema"),
    ],
)
def test_averaged_weights_come_first_and_that_is_said(tmp_path, raw, averaged):
    for content in (
        {raw: network(RAW), averaged: network(AVERAGED), "epoch": 1},
        {averaged: network(AVERAGED), raw: network(RAW, "module.")},
        {raw: network(RAW), averaged: network(AVERAGED, "module.")},
        {"checkpoint": {raw: network(RAW), averaged: network(AVERAGED)}},
    ):
        if raw == "whatever" and "checkpoint" not in content:
            continue  # under a name that says nothing there may be anything: it is no choice
        with pytest.warns(WeightsWarning, match=rf"x\.pth: .*averaged.*{averaged}.*not '.*{raw}"):
            weights = read(tmp_path, content)
        assert (value(weights), weights.averaged) == (AVERAGED, True)
        assert weights.key.endswith(averaged)
        (other,) = weights.other_keys
        assert value(read(tmp_path, content, key=other)) == RAW


def test_timm_takes_the_same(tmp_path):
    """Its order, where there is more than one of a kind."""
    helpers = pytest.importorskip("timm.models")
    keys = ("state_dict_ema", "model_ema", "state_dict", "model")
    for count in range(1, 16):
        content = {
            key: network(float(index + 1)) for index, key in enumerate(keys) if count & 1 << index
        }
        path = tmp_path / "x.pth"
        torch.save(content, path)
        theirs = helpers.load_state_dict(str(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", WeightsWarning)
            ours = read_state_dict(path)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_mmengine_exchanges_the_two_before_it_saves(tmp_path):
    """Its `state_dict` is the average, so that whoever knows of no average uses it."""
    content = {
        "meta": {},
        "message_hub": {},
        "state_dict": network(AVERAGED, "backbone."),
        "ema_state_dict": {"steps": torch.tensor(3), **network(RAW, "module.backbone.")},
    }
    with pytest.warns(WeightsWarning, match="averaged weights of 'state_dict"):
        weights = read(tmp_path, content)
    assert (value(weights), weights.averaged, weights.prefix) == (AVERAGED, True, "backbone.")


def test_a_wrapper_keeps_both_in_one_state_dict(tmp_path):
    for prefixes in (
        ("model.", "model_ema.module."),
        ("online_model.", "ema_model."),
        ("student.", "teacher."),
        ("net.", "averaged_net."),
    ):
        state = {**network(RAW, prefixes[0]), **network(AVERAGED, prefixes[1])}
        for content, key in (
            (state, ""),
            ({"state_dict": state}, "state_dict"),
            ({"ema": state}, "ema"),
        ):
            with pytest.warns(WeightsWarning, match="averaged weights"):
                weights = read(tmp_path, content)
            assert (value(weights), weights.prefix, weights.key) == (AVERAGED, prefixes[1], key)
            (other,) = weights.other_keys
            assert value(read(tmp_path, content, key=other)) == RAW


def test_an_average_that_cannot_be_read_is_named(tmp_path):
    for average in (Average(), {"shadow_params": [torch.zeros(2)], "decay": 0.9}, [torch.zeros(1)]):
        with pytest.warns(WeightsWarning, match=r"x\.pth: its averaged weights \('ema', "):
            weights = read(tmp_path, {"model": network(RAW), "ema": average})
        assert (value(weights), weights.averaged) == (RAW, False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for nothing in (None, {}, [], 0.999):
            assert value(read(tmp_path, {"model": network(RAW), "ema": nothing})) == RAW


def test_weights_of_something_else_are_no_choice(tmp_path):
    """A teacher of another kind, a frozen encoder: not what was asked for."""
    content = {"student": network(RAW), "teacher": {"conv.weight": torch.zeros(3)}}
    with pytest.warns(WeightsWarning, match="averaged weights"):
        assert value(read(tmp_path, content)) == RAW
    content = {"model": network(RAW), "clip": {"conv.weight": torch.zeros(3)}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert value(read(tmp_path, content)) == RAW


def test_the_same_weights_under_two_names_are_no_choice(tmp_path):
    state = network(RAW)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert value(read(tmp_path, {"model": state, "model_ema": state})) == RAW


# -- asked for ------------------------------------------------------------------------------------


@pytest.fixture
def several(tmp_path) -> Path:
    torch.save(
        {
            "epoch": 3,
            "model": network(RAW),
            "model_ema": {"module": network(AVERAGED), "n": 3},
            "state_dict": {**network(OTHER, "a."), **network(RAW, "b."), "c": torch.zeros(1)},
            "dotted.name": network(OTHER),
        },
        tmp_path / "several.pth",
    )
    return tmp_path / "several.pth"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("model", RAW),
        ("model_ema", AVERAGED),
        ("model_ema.module", AVERAGED),
        ("dotted.name", OTHER),
        ("state_dict.a", OTHER),
        ("state_dict.b", RAW),
    ],
)
def test_by_key(several, key, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights = read_weights(several, key=key)
    assert value(weights) == expected
    assert weights.averaged == (expected == AVERAGED)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("nothing", "no state dict 'nothing'; its state dicts are 'model', .*'model_ema.module'"),
        ("model.nothing", "no state dict 'model.nothing'; its state dicts are 'model', "),
        ("state_dict.c", "'state_dict.c' is a tensor, not a state dict; its state dicts are"),
        ("epoch", "'epoch' is of type int, not a state dict; its state dicts are 'model'"),
        ("epoch.x", "no state dict 'epoch.x'"),
        ("state_dict", "several TransNeXts: 'a.', 'b.'; choose one with key="),
        ("x" * 3000, "no state dict 'xxx"),
        (".", "no state dict '.'"),
        ("\x1b[2J", r"no state dict '\\x1b\[2J'"),
    ],
)
def test_keys_that_lead_nowhere_list_those_that_do(several, key, message):
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(several))}: .*{message}"):
        read_weights(several, key=key)


def test_ambiguous_files_list_their_keys(tmp_path):
    for content, message in (
        ({"net": network(RAW), "params": network(RAW)}, "several state dicts: 'net', 'params'"),
        ({"one": network(RAW), "two": network(RAW)}, "several state dicts: 'one', 'two'"),
        ({"ema": network(RAW), "teacher": network(RAW)}, "several state dicts: 'ema', 'teacher'"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read(tmp_path, content)


def test_safetensors_are_asked_by_what_names_begin_with(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({**network(RAW, "raw."), **network(AVERAGED, "smooth.")}, path)
    with pytest.raises(CheckpointError, match="several TransNeXts"):
        read_weights(path)
    assert value(read_weights(path, key="raw")) == RAW
    assert value(read_weights(path, key="smooth")) == AVERAGED
    with pytest.raises(CheckpointError, match="its state dicts are 'raw', 'smooth'"):
        read_weights(path, key="model")
    save_file(network(RAW), path)
    with pytest.raises(CheckpointError, match="no state dict 'model'; it is a state dict itself"):
        read_weights(path, key="model")
    assert value(read_weights(path, key="")) == RAW


@pytest.mark.filterwarnings("ignore::transnext_models.checkpoints.WeightsWarning")
def test_every_function_takes_a_key(tmp_path):
    torch.manual_seed(0)
    raw = create_model("transnext_pico").state_dict()
    averaged = {name: tensor * 0.5 for name, tensor in raw.items()}
    path = tmp_path / "x.pth"
    torch.save({"model": raw, "model_ema": averaged}, path)
    for key, expected in ((None, averaged), ("model", raw), ("model_ema", averaged)):
        wanted = expected["norm1.weight"]
        model = create_model("transnext_pico")
        report = load_checkpoint(model, path, key=key)
        assert report.key == (key or "model_ema")
        done = convert(path, tmp_path / "out.safetensors", key=key, overwrite=True)
        assert done.metadata["source_key"] == report.key
        for found in (
            read_state_dict(path, key=key)["norm1.weight"],
            model.norm1.weight,
            create_model("transnext_pico", weights=path, key=key).norm1.weight,
            Classifier.load(weights=path, key=key).model.norm1.weight,
            read_state_dict(done.path)["norm1.weight"],
        ):
            assert torch.equal(found, wanted)
    with pytest.raises(ValueError, match="key: got 'model', which needs weights"):
        create_model("transnext_pico", key="model")
    with pytest.raises(ValueError, match="key: got 'model', but the file has been read"):
        load_checkpoint(create_model("transnext_pico"), read_weights(path), key="model")
