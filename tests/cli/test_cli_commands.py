"""``transnext models``, ``convert``, ``info`` and the command line as a whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from huggingface_hub import constants
from safetensors import safe_open

import transnext_models
import transnext_ops
from transnext_models import VARIANTS, create_model, list_models
from transnext_models.checkpoints import read_state_dict
from transnext_models.variants import find_checkpoint


def aligned(lines: list[str]) -> bool:
    """Whether nothing is cut off and no line ends in blanks."""
    return all(line == line.rstrip() and "…" not in line for line in lines)


# -- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("--help",), ("-h",)])
def test_help_lists_the_commands(transnext, arguments):
    code, out, err = transnext(*arguments)
    assert (code, err) == (0, "")
    for command in ("classify", "train", "models", "convert", "export", "info"):
        assert command in out


@pytest.mark.parametrize("command", ["classify", "train", "models", "convert", "export", "info"])
def test_every_command_has_help(transnext, command):
    code, out, _ = transnext(command, "--help")
    assert code == 0
    assert f"transnext {command}" in out
    assert "--debug" in out


def test_version(transnext):
    code, out, _ = transnext("--version")
    assert (code, out) == (0, f"transnext {transnext_ops.__version__}\n")


def run_module(**environment):
    """Run ``python -m transnext_models`` and return what it prints."""
    arguments = [] if environment else ["--version"]
    return subprocess.run(
        [sys.executable, "-m", "transnext_models", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_package_is_the_command():
    assert run_module() == f"transnext {transnext_models.__version__}\n"
    assert transnext_models.__version__ == transnext_ops.__version__


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("transnext ev", ["evaluate"]),
        ("transnext evaluate de", ["detect"]),
        ("transnext evaluate segment --mo", ["--mode"]),
    ],
)
def test_a_shell_completes_commands(words, completed):
    count = str(words.count(" "))
    out = run_module(_TRANSNEXT_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=count)
    assert out.split() == completed


def test_evaluate_has_subcommands_and_is_one_itself(transnext):
    code, out, _ = transnext("evaluate", "--help")
    assert code == 0
    assert "--imagenet" in out
    assert "evaluate detect: Measure a detector's average precision" in " ".join(out.split())
    for name, option in (("detect", "--annotations"), ("segment", "--mode")):
        code, out, _ = transnext("evaluate", name, "--help")
        assert code == 0
        assert f"transnext evaluate {name}" in out
        assert option in out
        assert "--imagenet" not in out


def test_unknown_command(transnext):
    code, out, err = transnext("clasify")
    assert (code, out) == (2, "")
    assert "clasify" in err


# -- models ---------------------------------------------------------------------------------------


def test_models_table(transnext, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    code, out, err = transnext("models")
    assert code == 0
    lines = out.splitlines()
    assert aligned(lines)
    assert "top-1" in lines[0]
    assert "published" in err
    assert len(lines) == 1 + sum(len(variant.checkpoints) for variant in VARIANTS.values())
    tiny = next(line for line in lines if line.startswith("transnext_tiny "))
    assert re.split(r"\s{2,}", tiny) == [
        "transnext_tiny",
        "224",
        "28.3 M",
        "5.71 G",
        "84.0 %",
        "DaiShiResearch/transnext-tiny-224-1k",
    ]
    assert any(line.startswith("transnext_small.in1k_384 ") for line in lines)
    assert "in this package" in out


def test_models_json(transnext):
    code, out, err = transnext("models", "--json")
    assert (code, err) == (0, "")
    entries = {entry["model"]: entry for entry in json.loads(out)}
    assert entries["transnext_base.in1k_384"] == {
        "model": "transnext_base.in1k_384",
        "architecture": "transnext_base",
        "tag": "in1k_384",
        "img_size": 384,
        "parameters": 89_721_496,
        "gmacs": 56.19,
        "imagenet_1k_top_1": 86.2,
        "num_classes": 1000,
        "repo": "DaiShiResearch/transnext-base-384-1k-ft-1k",
        "file": "transnext_base_384_1k_ft_1k.pth",
    }
    assert entries["transnext_pico"]["repo"] is None


def test_every_listed_name_means_its_weights(transnext):
    _, out, _ = transnext("models", "--json")
    for entry in json.loads(out):
        variant, checkpoint = find_checkpoint(entry["model"])
        assert (variant.name, checkpoint.tag) == (entry["architecture"], entry["tag"])


# -- convert --------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path):
    state = create_model("transnext_pico").state_dict()
    path = tmp_path / "run.pth"
    torch.save({"model": state, "epoch": 7}, path)
    return path


def test_convert(transnext, checkpoint, tmp_path):
    target = tmp_path / "out.safetensors"
    code, out, err = transnext("convert", checkpoint, target)
    assert (code, err) == (0, "")
    assert aligned(out.splitlines())
    assert re.search(rf"^written +{re.escape(str(target))} \([\d.]+ MB\)$", out, re.M)
    assert re.search(r"^weights +transnext_pico with 10 classes$", out, re.M)
    for name, value in read_state_dict(checkpoint).items():
        assert torch.equal(read_state_dict(target)[name], value)
    with safe_open(target, framework="pt") as file:
        assert file.metadata()["source_file"] == "run.pth"


def test_convert_type(transnext, checkpoint, tmp_path):
    target = tmp_path / "half.safetensors"
    assert transnext("convert", checkpoint, target, "--dtype", "float16")[0] == 0
    assert {value.dtype for value in read_state_dict(target).values()} == {torch.float16}
    code, _, err = transnext("convert", checkpoint, tmp_path / "x", "--dtype", "int8")
    assert code == 2
    assert "int8" in err


def test_convert_overwrites_only_on_demand(transnext, checkpoint, tmp_path):
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"precious")
    code, out, err = transnext("convert", checkpoint, target)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert "--force" in err
    assert target.read_bytes() == b"precious"
    assert transnext("convert", checkpoint, target, "--force")[0] == 0
    assert read_state_dict(target)


def test_convert_of_a_detector_says_what_is_left_out(transnext, checkpoint, tmp_path):
    state = {f"backbone.{k}": v for k, v in read_state_dict(checkpoint).items() if "head" not in k}
    path = tmp_path / "detector.pth"
    torch.save({"state_dict": {**state, "neck.weight": torch.zeros(1)}, "meta": {}}, path)
    code, out, err = transnext("convert", path, tmp_path / "out.safetensors")
    assert code == 0
    assert "transnext_pico without a head" in out
    assert "1 entries" not in err
    assert "1 entry of other parts of the network was left out" in err


def test_convert_errors_are_clean(transnext, tmp_path):
    for name, content in (("a.pth", b""), ("b.pth", b"\x80\x02garbage")):
        (tmp_path / name).write_bytes(content)
        code, out, err = transnext("convert", tmp_path / name, tmp_path / "out.safetensors")
        assert (code, out) == (1, "")
        assert err.startswith(f"error: {tmp_path / name}: ")
    assert not (tmp_path / "out.safetensors").exists()
    assert transnext("convert", tmp_path / "a.pth")[0] == 2


# -- info -----------------------------------------------------------------------------------------


def test_info_json(transnext, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    code, out, err = transnext("info", "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert (
        facts["versions"]["torch"] == torch.__version__.split("+")[0] or facts["versions"]["torch"]
    )
    assert facts["versions"]["transnext"] == transnext_ops.__version__
    assert facts["models"] == list_models()
    assert facts["weights_cache"] == str(tmp_path)
    assert facts["devices"][0]["name"] == "cpu"
    backends = {backend["name"]: backend for backend in facts["backends"]}
    assert list(backends) == ["reference", "torch", "cpp", "cupy"]
    assert backends["torch"]["unavailable"] is None
    assert backends["torch"]["devices"]["cpu"] == "every operator"
    for name, backend in backends.items():
        assert (backend["unavailable"] is None) == (name in transnext_ops.available_backends())
    assert set(facts["auto"]) == {"cpu"} | ({"cuda"} if torch.cuda.is_available() else set())


def test_info_text(transnext):
    code, out, _ = transnext("info")
    assert code == 0
    lines = out.splitlines()
    assert aligned(lines)
    for title in ("Versions", "Devices", "Backends", "Chosen by auto", "Models"):
        assert title in lines
    if not torch.cuda.is_available():
        assert re.search(r"^  cupy  .*(not installed|no CUDA device)", out, re.M)
        assert re.search(r"^  cuda  +(no device|this torch)", out, re.M)


@pytest.mark.parametrize(
    ("value", "text"),
    [("torch", "torch"), ("cuda", "TRANSNEXT_OPS_BACKEND: got 'cuda', needs one of")],
)
def test_info_shows_what_the_environment_asks_for(transnext, monkeypatch, value, text):
    monkeypatch.setenv("TRANSNEXT_OPS_BACKEND", value)
    code, out, _ = transnext("info")
    assert code == 0
    assert "Chosen by auto\n" in out
    assert re.search(rf"^Chosen by TRANSNEXT_OPS_BACKEND\n  every device  .*{text}", out, re.M)
    assert text in json.loads(transnext("info", "--json").out)["requested"]


def test_info_where_things_are_missing(transnext, monkeypatch):
    """Neither CuPy nor the compiled library nor optional packages are needed."""
    from transnext_models.cli import info
    from transnext_ops.backends import registry

    monkeypatch.setattr(info, "distributions", list)
    monkeypatch.setattr(info, "version", missing)
    monkeypatch.setattr(registry, "unavailable_reason", lambda name: f"no {name} here")
    facts = info.collect()
    assert facts["versions"]["timm"] is None
    assert facts["versions"]["cupy"] is None
    assert facts["backends"][2] == {"name": "cpp", "unavailable": "no cpp here", "devices": {}}
    code, out, _ = transnext("info")
    assert code == 0
    assert re.search(r"^  cpp +no cpp here$", out, re.M)


def missing(name: str) -> str:
    from importlib.metadata import PackageNotFoundError

    raise PackageNotFoundError(name)
