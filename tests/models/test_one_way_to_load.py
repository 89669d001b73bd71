"""`create_model`, `Classifier.load` and `load_model` are one way from a file to a model.

For every kind of file they give the same model, or refuse it in the same words.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from transnext_models import TransNeXt, create_model
from transnext_models.checkpoints import WeightsWarning, convert
from transnext_models.classifier import Classifier
from transnext_models.registry import load_model

NAME = "transnext_pico"


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(3)
    model = create_model(NAME)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter).mul_(0.1))
    return model.state_dict()


def _plain(path, state):
    torch.save(state, path)


def _nested(path, state):
    torch.save({"model": {f"module.{name}": v for name, v in state.items()}, "epoch": 1}, path)


def _averaged(path, state):
    raw = {name: torch.zeros_like(value) for name, value in state.items()}
    torch.save({"state_dict": raw, "model_ema": state}, path)


def _detector(path, state):
    inner = {f"backbone.{name}": value for name, value in state.items()}
    torch.save({"state_dict": {**inner, "neck.a": torch.zeros(1)}, "meta": {}}, path)


def _safetensors(path, state):
    save_file(state, path)


def _trained(path, state):
    save_file(state, path, metadata={"img_size": "96", "pretrain_size": "128"})


def _odd_metadata(path, state):
    save_file(state, path, metadata={"img_size": "huge", "pretrain_size": "-1"})


def _converted(path, state):
    _plain(path.with_suffix(".first.pth"), state)
    convert(path.with_suffix(".first.pth"), path)


def _half(path, state):
    torch.save({name: value.half() for name, value in state.items()}, path)


def _three_classes(path, state):
    torch.save({**state, "head.weight": torch.ones(3, 144), "head.bias": torch.zeros(3)}, path)


WRITERS = [
    _plain,
    _nested,
    _averaged,
    _detector,
    _safetensors,
    _trained,
    _odd_metadata,
    _converted,
    _half,
    _three_classes,
]


def loaders(path, key=None):
    """Yield each way's model; the CLI's `classify` is that of `Classifier.load`."""
    yield create_model(NAME, weights=path, key=key)
    yield Classifier.load(NAME, path, key=key, device="cpu").model
    yield Classifier.load(weights=path, key=key, device="cpu").model
    yield load_model(None, path, key=key).model


@pytest.mark.filterwarnings("ignore::transnext_models.checkpoints.WeightsWarning")
@pytest.mark.parametrize("write", WRITERS)
def test_every_way_gives_the_same_model(tmp_path, state, write):
    write(tmp_path / "weights.file", state)
    first, *others = loaders(tmp_path / "weights.file")
    images = torch.rand(2, 3, 96, 64)
    expected = first.eval()(images)
    for model in others:
        for name, value in first.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name
        assert (model.img_size, model.pretrain_size) == (first.img_size, first.pretrain_size)
        assert (model.num_classes, model.default_cfg) == (first.num_classes, first.default_cfg)
        torch.testing.assert_close(model.eval()(images), expected, rtol=1e-5, atol=1e-5)


def test_the_sizes_of_training_are_the_models(tmp_path, state):
    _trained(tmp_path / "run.safetensors", state)
    model = create_model(NAME, weights=tmp_path / "run.safetensors")
    assert (model.img_size, model.pretrain_size) == (96, 128)
    chosen = create_model(NAME, weights=tmp_path / "run.safetensors", img_size=64, pretrain_size=64)
    assert (chosen.img_size, chosen.pretrain_size) == (64, 64)


def test_a_published_files_name_says_which_preset_it_is_of(tmp_path):
    path = tmp_path / "transnext_small_384_1k_ft_1k.pth"
    torch.save(create_model("transnext_small").half().state_dict(), path)
    for name, side in (("transnext_small", 384), ("transnext_small.in1k", 224)):
        model = create_model(name, weights=path)
        assert model.img_size == side
        assert model.pretrain_size == 224
        assert model.default_cfg["input_size"] == (3, side, side)


def _page(path, state):
    path.write_text("<html>Sign in</html>")


def _missing(path, state):
    pass


def _folder(path, state):
    path.mkdir()


def _empty(path, state):
    path.touch()


def _noise(path, state):
    path.write_bytes(b"nothing of any format")


def _cut(path, state):
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-3000])


def _other_network(path, state):
    torch.save(nn.Linear(3, 4).state_dict(), path)


def _not_finite(path, state):
    torch.save({**state, "norm1.bias": torch.full_like(state["norm1.bias"], torch.nan)}, path)


def _no_head(path, state):
    torch.save({name: v for name, v in state.items() if not name.startswith("head")}, path)


def _lacks_one(path, state):
    torch.save({name: v for name, v in state.items() if name != "norm2.bias"}, path)


def _one_too_many(path, state):
    torch.save({**state, "block1.0.extra": torch.zeros(2)}, path)


def _several(path, state):
    other = {name: torch.zeros_like(value) for name, value in state.items()}
    torch.save({"first": dict(state), "second": other}, path)


def _another_variant(path, state):
    torch.save(create_model("transnext_micro").half().state_dict(), path)


REFUSED = [
    _page,
    _missing,
    _folder,
    _empty,
    _noise,
    _cut,
    _other_network,
    _not_finite,
    _no_head,
    _lacks_one,
    _one_too_many,
    _several,
    _another_variant,
]


def message(load, *arguments, **keywords) -> tuple[type, str]:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- which message is the test
        load(*arguments, **keywords)
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize("write", REFUSED)
def test_every_way_refuses_in_the_same_words(tmp_path, state, write):
    path = tmp_path / "weights.file"
    write(path, state)
    refusal = message(create_model, NAME, weights=path)
    assert "weights.file" in refusal[1]
    assert message(Classifier.load, NAME, path, device="cpu") == refusal
    assert message(load_model, NAME, path) == refusal


def test_every_way_refuses_a_key_in_the_same_words(tmp_path, state):
    _nested(tmp_path / "weights.file", state)
    path = tmp_path / "weights.file"
    refusal = message(create_model, NAME, weights=path, key="ema")
    assert "ema" in refusal[1]
    assert message(Classifier.load, NAME, path, key="ema", device="cpu") == refusal


def test_what_is_wrong_is_remarked_once(tmp_path, state):
    _odd_metadata(tmp_path / "x.safetensors", state)
    for load in (
        lambda path: create_model(NAME, weights=path),
        lambda path: Classifier.load(weights=path, device="cpu"),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load(tmp_path / "x.safetensors")
        remarks = [str(w.message) for w in caught if w.category is WeightsWarning]
        assert len(remarks) == 2
        assert "img_size" in remarks[0]
        assert "pretrain_size" in remarks[1]


def test_a_caller_may_refuse_before_the_model_is_built(tmp_path, state, monkeypatch):
    _plain(tmp_path / "weights.pth", state)

    def refuse(weights):
        raise ValueError(f"{weights.path}: not these")

    monkeypatch.setattr(TransNeXt, "__init__", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(ValueError, match="not these"):
        load_model(NAME, tmp_path / "weights.pth", check=refuse)
