"""The pictures of the documentation are what their commands draw."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"


def test_foveal_attention(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = tmp_path / "drawn.png"
    command = [sys.executable, PICTURES / "foveal_attention.py", drawn]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert difference(drawn, PICTURES / "foveal_attention.png") < 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("query.png", ["digit_4_heldout_2000.png", "--query", "34,34", "--stage", "2"]),
        ("receptive_fields.png", ["--erf", "."]),
    ],
)
def test_what_the_demonstrator_looks_at(tmp_path: Path, name: str, arguments: list[str]) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("timm")
    drawn = tmp_path / name
    samples = Path(str(resources.files("transnext_models") / "assets" / "samples"))
    command = [sys.executable, "-m", "transnext_models", "see", *arguments, "--output", str(drawn)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=samples)
    assert result.returncode == 0, result.stderr
    assert difference(drawn, PICTURES / name) < 4


def difference(drawn: Path, kept: Path) -> float:
    """Return the mean difference of two small versions, in grey values.

    Fonts and antialiasing differ a little between versions of matplotlib.
    """
    small, kept_small = (
        np.asarray(Image.open(path).convert("RGB").resize((300, 100)), dtype=float)
        for path in (drawn, kept)
    )
    return float(np.abs(small - kept_small).mean())
