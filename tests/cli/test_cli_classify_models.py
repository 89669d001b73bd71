"""``transnext classify``: which model, weights and labels it takes, and what it says of others."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from stand_in_hub import stand_in_hub, use_endpoint
from transnext_models import create_model
from transnext_models.classification import classifier as classifier_module
from transnext_models.classifier import Classifier
from transnext_models.cli.application import app
from transnext_models.evaluation.models import load_evaluated

# -- which model ----------------------------------------------------------------------------------


def test_published_layouts_of_weights(transnext, model, folder, tmp_path):
    state = model.state_dict()
    image = folder / "image_00.png"
    results = []
    for name, content in (
        ("bare.pth", state),
        ("training.pth", {"model": state, "epoch": 1}),
        ("wrapped.pth", {"state_dict": {f"backbone.{k}": v for k, v in state.items()}}),
    ):
        torch.save(content, tmp_path / name)
        code, out, _ = transnext("classify", image, "--weights", tmp_path / name, "--json")
        assert code == 0
        results.append(json.loads(out)["images"][0]["predictions"])
    assert results[0] == results[1] == results[2]


def test_own_classes_and_sizes(transnext, folder, tmp_path):
    """Weights of a training run say their image sizes and may say their class names."""
    torch.manual_seed(0)
    network = create_model("transnext_pico", num_classes=3)
    names = ["ant", "bee", "wasp"]
    metadata = {"img_size": "96", "pretrain_size": "96", "class_names": json.dumps(names)}
    save_file(network.state_dict(), tmp_path / "insects.safetensors", metadata=metadata)
    loaded = Classifier.load(weights=tmp_path / "insects.safetensors")
    assert loaded.labels == names
    assert loaded.preprocess.size == 96
    assert loaded.model.pretrain_size == 96
    image = folder / "image_00.png"
    _, out, _ = transnext("classify", image, "--weights", tmp_path / "insects.safetensors")
    assert sorted(re.findall(r"ant|bee|wasp", out)) == names


@pytest.mark.parametrize(
    "metadata",
    [
        {"img_size": "huge", "pretrain_size": "-1", "class_names": "["},
        {"img_size": "8", "pretrain_size": "", "class_names": '["one"]'},
        {"img_size": "9" * 5000, "class_names": "3"},
        {"crop_mode": "border", "crop_pct": "1.0"},
        {"crop_mode": "center"},
        {"crop_mode": "center", "crop_pct": "nan"},
        {"crop_mode": "center", "crop_pct": "0.000"},
        {"crop_pct": "0." + "9" * 5000},
    ],
)
def test_odd_metadata_is_ignored(tmp_path, model, metadata):
    save_file(model.state_dict(), tmp_path / "x.safetensors", metadata=metadata)
    loaded = Classifier.load(weights=tmp_path / "x.safetensors")
    assert loaded.labels == list("0123456789")
    assert loaded.preprocess.size == loaded.model.pretrain_size == 64
    assert (loaded.preprocess.crop_mode, loaded.preprocess.crop_pct) == ("squash", 1.0)


@pytest.mark.parametrize("crop", [("center", 0.9), ("center", 1.0), ("squash", 1.0)])
def test_images_become_square_as_in_validation(tmp_path, model, crop):
    """A run's weights say how, whatever the preset of their model does."""
    metadata = {"img_size": "96", "crop_mode": crop[0], "crop_pct": str(crop[1])}
    save_file(model.state_dict(), tmp_path / "x.safetensors", metadata=metadata)
    loaded = Classifier.load(weights=tmp_path / "x.safetensors")
    assert loaded.preprocess.size == 96
    assert (loaded.preprocess.crop_mode, loaded.preprocess.crop_pct) == crop
    config = loaded.model.pretrained_cfg
    assert (config["crop_mode"], config["crop_pct"]) == crop
    assert config["input_size"] == (3, 96, 96)
    evaluated = load_evaluated(None, tmp_path / "x.safetensors").normal(96)
    assert (evaluated.crop_mode, evaluated.crop_pct) == crop


def test_a_published_file_brings_its_own_preprocessing(tmp_path):
    """Whether the model is named or not; a name with a tag means the weights of that tag."""
    path = tmp_path / "transnext_small_384_1k_ft_1k.pth"
    torch.save(create_model("transnext_small").half().state_dict(), path)
    for model, size in ((None, 384), ("transnext_small", 384), ("transnext_small.in1k", 224)):
        assert Classifier.load(model, path, device="cpu").preprocess.size == size


def test_weights_by_hub_name(transnext, weights, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with stand_in_hub() as hub:
        hub.files["me/digits/model.safetensors"] = weights.read_bytes()
        use_endpoint(monkeypatch, hub.url)
        image = folder / "image_00.png"
        code, out, err = transnext("classify", image, "--weights", "me/digits", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["weights"].endswith("model.safetensors")


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give image files, folders or patterns, or --samples"),
        (("x.png", "--size", "31"), "Invalid value for '--size'"),
        (("x.png", "--batch-size", "0"), "Invalid value for '--batch-size'"),
        (("x.png", "--top-k", "0"), "Invalid value for '--top-k'"),
        (("x.png", "--model", "transnext_tinny"), "did you mean transnext_tiny"),
        (("x.png", "--model", "transnext_tiny.in22k"), "has no checkpoint 'in22k'"),
        (("x.png", "--device", "gpu"), "one of auto, cpu, cuda"),
        (("x.png", "--device", "meta"), "one of auto, cpu, cuda"),
        (("x.png", "--device", "cuda:77"), "torch sees"),
        (("x.png", "--backend", "cuda"), "needs one of 'auto'"),
        (("x.png", "--no-such-option"), "No such option"),
    ],
)
def test_usage_errors(transnext, arguments, message):
    code, out, err = transnext("classify", *arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(re.sub(r"[│╭╮╰╯─]", " ", err).split())


def one_line_error(outcome: Any) -> str:
    assert outcome.code == 1
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert "Traceback" not in outcome.err
    return outcome.err


def test_weights_of_another_model(transnext, weights, folder):
    outcome = transnext("classify", folder, "--weights", weights, "--model", "transnext_micro")
    message = one_line_error(outcome)
    assert "pico.safetensors" in message
    assert "transnext_pico with 10 classes" in message
    assert "transnext_micro" in message


def test_weights_that_are_none(transnext, folder, tmp_path):
    (tmp_path / "page.pth").write_text("<html>Sign in</html>")
    outcome = transnext("classify", folder, "--weights", tmp_path / "page.pth")
    assert "page.pth: a web page" in one_line_error(outcome)
    outcome = transnext("classify", folder, "--weights", tmp_path / "gone.pth")
    assert "gone.pth is not there" in one_line_error(outcome)


def test_backbone_weights_name_no_classes(transnext, model, folder, tmp_path):
    state = {key: value for key, value in model.state_dict().items() if "head" not in key}
    save_file(state, tmp_path / "backbone.safetensors")
    outcome = transnext("classify", folder, "--weights", tmp_path / "backbone.safetensors")
    assert "no classification head" in one_line_error(outcome)


def test_weights_of_an_unknown_architecture(transnext, folder, tmp_path):
    from small_model import small_model

    save_file(small_model().float().state_dict(), tmp_path / "own.safetensors")
    outcome = transnext("classify", folder, "--weights", tmp_path / "own.safetensors")
    assert "say which with --model" in one_line_error(outcome)


def test_no_network_says_what_to_do(transnext, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = one_line_error(transnext("classify", folder, "--model", "transnext_tiny"))
    assert "transnext_tiny_224_1k.pth of DaiShiResearch/transnext-tiny-224-1k" in message
    assert str(tmp_path / "cache") in message
    assert "--weights FILE" in message


def test_unexpected_errors_point_to_the_traceback(transnext, weights, folder, monkeypatch):
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(classifier_module.Classifier, "load", broken)
    arguments = ("classify", folder, "--weights", weights)
    assert "ZeroDivisionError: odd" in (message := one_line_error(transnext(*arguments)))
    assert "--debug" in message
    with pytest.raises(ZeroDivisionError):
        app([*map(str, arguments), "--debug"], prog_name="transnext")


def test_out_of_memory_says_batch_size(transnext, weights, folder, monkeypatch):
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")

    monkeypatch.setattr(Classifier, "_warm_up", lambda self: None)
    monkeypatch.setattr(torch.nn.Module, "__call__", full)
    outcome = transnext("classify", folder / "*.png", "--weights", weights)
    assert outcome.code == 1
    assert "out of memory on cpu with a batch of" in outcome.err
    assert "smaller batch size" in outcome.err
