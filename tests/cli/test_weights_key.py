"""``--weights-key``, and what the commands say of a weights file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from transnext_models import create_model
from transnext_models.checkpoints import read_state_dict


@pytest.fixture(scope="module")
def raw() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return create_model("transnext_pico").state_dict()


@pytest.fixture
def both(tmp_path, raw) -> Path:
    path = tmp_path / "run.pth"
    averaged = {name: value * 0.5 for name, value in raw.items()}
    torch.save({"model": raw, "model_ema": averaged, "epoch": 3}, path)
    return path


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / "x.png"
    Image.new("L", (40, 40), 128).save(path)
    return path


def test_convert_says_which_weights_it_took(transnext, both, raw, tmp_path):
    target = tmp_path / "out.safetensors"
    code, out, err = transnext("convert", both, target)
    assert code == 0
    assert "averaged weights of 'model_ema' are taken, not 'model'" in " ".join(err.split())
    assert "--weights-key" in err
    assert "source_key     model_ema" in out
    assert torch.equal(read_state_dict(target)["norm1.weight"], raw["norm1.weight"] * 0.5)
    code, out, err = transnext("convert", both, target, "--force", "--weights-key", "model")
    assert (code, err) == (0, "")
    assert torch.equal(read_state_dict(target)["norm1.weight"], raw["norm1.weight"])


def test_classify_says_which_weights_it_took(transnext, both, image):
    code, out, err = transnext("classify", image, "--weights", both, "--json")
    assert code == 0
    assert "averaged weights of 'model_ema' are taken" in " ".join(err.split())
    assert "Warning" not in err
    averaged = json.loads(out)["images"][0]["predictions"]
    results = {}
    for key in ("model", "model_ema"):
        code, out, err = transnext(
            "classify", image, "--weights", both, "--json", "--weights-key", key
        )
        assert (code, err) == (0, "")
        results[key] = json.loads(out)["images"][0]["predictions"]
    assert results["model_ema"] == averaged != results["model"]


@pytest.mark.parametrize("command", ["convert", "classify"])
def test_unknown_keys_list_those_that_there_are(transnext, both, image, tmp_path, command):
    arguments = {
        "convert": (both, tmp_path / "out.safetensors"),
        "classify": (image, "--weights", both),
    }[command]
    code, _, err = transnext(command, *arguments, "--weights-key", "nothing")
    assert code == 1
    text = (
        f"error: {both}: it has no state dict 'nothing'; its state dicts are 'model', 'model_ema'"
    )
    assert text in err.replace("\n", " ")
    assert not (tmp_path / "out.safetensors").exists()


def test_metadata_that_are_left_out_are_named(transnext, raw, image, tmp_path):
    path = tmp_path / "odd.safetensors"
    save_file(raw, path, metadata={"img_size": "99999", "class_names": "[" * 60_000})
    code, _, err = transnext("classify", image, "--weights", path)
    assert code == 0
    for text in ("img_size is left out: it is '99999'", "class_names is left out"):
        assert f"{path}: its metadata's {text}" in err
    assert max(map(len, err.splitlines())) < 1000


def test_names_in_files_cannot_write_to_the_terminal(transnext, raw, image, tmp_path):
    path = tmp_path / "x.pth"
    torch.save({**raw, "\x1b[2J\u202e\nerror: none": torch.zeros(2)}, path)
    code, _, err = transnext("classify", image, "--weights", path)
    assert code == 1
    assert len(err.splitlines()) == 1
    assert "\\x1b[2J\\u202e\\nerror: none" in err


@pytest.mark.parametrize("name", ["owner/repo:../../x.pth", "owner/..", "/dev/zero", "/dev/null"])
def test_weights_that_are_nowhere(transnext, image, name):
    code, out, err = transnext("classify", image, "--weights", name)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
