"""Every example runs as its first lines say, offline and without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LONGEST = 40


def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run an example in a process of its own, without a network."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip


def output(name: str, *arguments: str | Path) -> str:
    """Return what a successful run prints."""
    result = run(name, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_is_short_and_tested(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST
    assert f'"{path.name}"' in Path(__file__).read_text(encoding="utf-8")


def test_attention_in_your_network() -> None:
    assert "gradient of the temperatures: tensor([" in output("attention_in_your_network.py")


def test_foveal_unet() -> None:
    assert output("foveal_unet.py") == "[(1, 5, 64, 64), (1, 5, 75, 90)]\n"


@pytest.mark.parametrize("model", ["transnext_pico", "transnext_micro"])
def test_backbone_features(model: str) -> None:
    lines = output("backbone_features.py", model).splitlines()
    assert [line.split(":")[0] for line in lines] == [f"stride {s:2}" for s in (4, 8, 16, 32)]
    assert lines[0].endswith("80, 120)")


@pytest.mark.slow
def test_finetune_folder(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for shade, name in ((40, "dark"), (200, "light")):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = draws.integers(shade, shade + 50, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    lines = output("finetune_folder.py", tmp_path / "data", tmp_path / "run").splitlines()
    answers = [line.split(": ") for line in lines[-4:]]
    images = ["dark/0.png", "dark/1.png", "light/0.png", "light/1.png"]
    assert [image for image, _ in answers] == images
    assert {label.split(" ")[0] for _, label in answers} <= {"dark", "light"}
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.long
@pytest.mark.slow
def test_export_onnx(tmp_path: Path) -> None:
    assert "batch 5:" in output("export_onnx.py", tmp_path / "pico.onnx")
    assert (tmp_path / "pico.onnx").exists()


def test_cupy_arrays() -> None:
    """Where CuPy and a GPU are, it runs; elsewhere it says in one line what is missing."""
    result = run("cupy_arrays.py")
    if result.returncode == 0:
        assert result.stdout.startswith("cupy (1, 1024, 3, 24)")
    else:
        assert result.returncode == 1
        assert result.stderr.startswith("cupy: needs ")
        assert "Traceback" not in result.stderr
