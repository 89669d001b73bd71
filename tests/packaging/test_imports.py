"""Who may import whom: the contracts in pyproject.toml, checked by import-linter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(importlib.util.find_spec("importlinter") is None, reason="needs import-linter")
@pytest.mark.skipif(not (ROOT / "python").is_dir(), reason="needs the sources")
def test_the_layers_hold_and_there_are_no_circles() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    path = os.pathsep.join((str(ROOT / "python"), str(ROOT / "reference")))
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Contracts: 5 kept, 0 broken." in done.stdout
