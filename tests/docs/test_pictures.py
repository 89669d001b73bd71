"""The pictures of the documentation are what their commands draw."""

from __future__ import annotations

import subprocess
import sys
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
    # Fonts and antialiasing differ a little between versions of matplotlib.
    now, kept = (
        np.asarray(Image.open(path).convert("RGB").resize((300, 100)), dtype=float)
        for path in (drawn, PICTURES / "foveal_attention.png")
    )
    assert np.abs(now - kept).mean() < 4
