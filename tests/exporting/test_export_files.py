"""Exported files: they compute what the model does, say what it is, and are whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from segmentation_models import small_segmentor
from small_model import small_model
from transnext_models.classification.classifier import Classifier
from transnext_models.cli.application import app
from transnext_models.exporting import DYNAMIC, ExportError, Request, export_model, read_metadata
from transnext_models.exporting import run as exporting
from transnext_models.exporting.quantise import layers_of_pixels, quantise
from transnext_models.exporting.runners import onnx_runtime
from transnext_models.exporting.subject import Subject
from transnext_models.training.digits import held_out_digits, load_split


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Compute on one thread."""


def small_subject(tmp_path: Path, model: torch.nn.Module, outputs: list[str]) -> Subject:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"of a test")
    return Subject("small", str(weights), model.float(), outputs, ["a", "b"], {}, (64, 96))


def small_network() -> torch.nn.Module:
    """A network that exports in a second, to test everything around the graph."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=4),
        torch.nn.GELU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 2),
    ).eval()


def test_the_command_writes_a_checked_file_that_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "pico.pt"
    outcome = CliRunner().invoke(
        app, ["export", "transnext_pico", "-o", str(path), "--size", "64x96", "--json"]
    )
    assert outcome.exit_code == 0, outcome.output
    document = json.loads(outcome.stdout)
    assert {tuple(check["images"]) for check in document["checks"]} == {(1, 64, 96), (3, 64, 96)}
    assert all(check["difference"] <= 1e-5 for check in document["checks"])
    assert [speed["runner"] for speed in document["speeds"]] == ["PyTorch", "torch.jit"]
    about = read_metadata(path)
    assert about["labels"] == [str(digit) for digit in range(10)]
    assert about["size"] == [64, 96]
    assert about["preprocess"]["crop_mode"] == "squash"
    assert len(about["preprocess"]["mean"]) == 3
    assert list(tmp_path.iterdir()) == [path]
    again = CliRunner().invoke(app, ["export", "transnext_pico", "-o", str(path), "--size", "64"])
    assert again.exit_code == 1
    assert "--force" in again.stderr


@pytest.mark.parametrize(
    ("runner", "wrong"),
    [("a stand-in", 1.0), ("a stand-in", float("nan")), ("a stand-in", None), ("openvino", 1.0)],
)
def test_a_file_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: str, wrong: float | None
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"of yesterday")
    subject = small_subject(tmp_path, small_model(), ["logits"])

    def run(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if wrong is None:
            raise RuntimeError("no such operator")
        return (subject.model(images) + wrong,)

    monkeypatch.setattr(exporting, "_content", lambda *_: b"of today")
    monkeypatch.setattr(exporting, "runners_of", lambda *_: [(runner, run)])
    with pytest.raises(ExportError, match=rf"^{runner} (is|cannot run)"):
        exporting.export_subject(subject, Request(path, overwrite=True))
    assert path.read_bytes() == b"of yesterday"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.pt", "weights.bin"]


def test_what_openvino_cannot_run_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raise RuntimeError("no such operator")

    subject = small_subject(tmp_path, small_network(), ["logits"])
    monkeypatch.setattr(exporting, "_content", lambda *_: b"of today")
    monkeypatch.setattr(exporting, "runners_of", lambda *_: [("openvino", run)])
    done = exporting.export_subject(subject, Request(tmp_path / "model.pt"))
    assert {check.difference for check in done.checks} == {float("inf")}
    assert [speed.runner for speed in done.speeds] == ["PyTorch"]


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_lower_precisions_take_and_give_float32(tmp_path: Path, dtype: str) -> None:
    model = small_model(depths=(1, 1, 1, 1))
    subject = small_subject(tmp_path, model, ["logits"])
    done = exporting.export_subject(subject, Request(tmp_path / "half.pt", dtype=dtype))
    assert 0 < done.difference <= exporting.LIMITS[dtype]
    loaded = torch.jit.load(done.path)
    assert loaded(torch.zeros(2, 3, 64, 96))[0].dtype == torch.float32
    assert next(loaded.parameters()).dtype == getattr(torch, dtype)
    assert next(model.parameters()).dtype == torch.float32  # the model itself stays


@pytest.mark.slow
def test_a_segmentor_gives_its_logits(tmp_path: Path) -> None:
    subject = small_subject(tmp_path, small_segmentor("upernet"), ["logits"])
    done = exporting.export_subject(subject, Request(tmp_path / "upernet.pt"))
    assert done.difference <= 1e-5


@pytest.mark.filterwarnings("ignore")
def test_onnx_files_run_where_onnx_runs_and_round_to_int8(tmp_path: Path) -> None:
    model = small_network()
    subject = small_subject(tmp_path, model, ["logits"])
    done = exporting.export_subject(subject, Request(tmp_path / "small.onnx"))
    assert done.difference <= 1e-5
    assert {check.images for check in done.checks} == {(1, 64, 96), (3, 64, 96)}
    assert read_metadata(done.path)["labels"] == ["a", "b"]
    images = torch.randn(8, 3, 64, 96)
    expected = model(images)
    for calibration in ([image[None] for image in images], []):
        rounded = quantise(done.path.read_bytes(), calibration)
        (actual,) = onnx_runtime(rounded)(images)
        difference = (actual - expected).abs().max() / expected.abs().max()
        assert 0 < difference < 0.05


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_free_sizes_are_checked_at_five_of_them(tmp_path: Path, suffix: str) -> None:
    """TransNeXt itself is exported with free sizes by tests/models/test_model_compile.py."""
    subject = small_subject(tmp_path, small_network(), ["logits"])
    done = exporting.export_subject(subject, Request(tmp_path / f"m{suffix}", size=DYNAMIC))
    sizes = {check.images for check in done.checks}
    assert len(sizes) == 10
    assert {(1, 65, 97), (3, 65, 97), (1, 300, 100)} <= sizes
    assert done.difference <= 1e-5
    assert read_metadata(done.path)["size"] == DYNAMIC


def digit_logits(run: Any, images: np.ndarray[Any, Any], prepare: Any) -> torch.Tensor:
    batches = torch.stack([prepare(Image.fromarray(image)) for image in images]).split(50)
    return torch.cat([run(batch)[0] for batch in batches])


@pytest.mark.long
@pytest.mark.slow
def test_int8_keeps_the_accuracy_on_held_out_digits(tmp_path: Path) -> None:
    """What the guide states: 1,000 digits, calibrated with 100 of those of training."""
    onnx = pytest.importorskip("onnx")
    done = export_model("transnext_pico", tmp_path / "pico.onnx")
    assert done.difference <= 1e-5
    content = done.path.read_bytes()
    prepare = Classifier.load("transnext_pico", device="cpu").preprocess
    training = load_split()[0]
    calibration = [prepare(Image.fromarray(image))[None] for image in training.images[::40]]
    digits = held_out_digits()
    right = {}
    for name, file in (
        ("float32", content),
        ("int8", quantise(content, calibration)),
        ("int8 weights", quantise(content, [])),
    ):
        logits = digit_logits(onnx_runtime(file), digits.images, prepare)
        right[name] = int((logits.argmax(1).numpy() == digits.labels).sum())
        print(f"{name}: {right[name] / 10:.1f} % of 1,000 digits, {len(file) / 1e6:.2f} MB")
    assert right["float32"] >= 950
    assert right["int8"] >= right["float32"] - 10
    assert right["int8 weights"] >= right["float32"] - 10
    layers = layers_of_pixels(onnx.load_from_string(content))
    assert len(layers) > 20
