"""The reference runs from a bare checkout: nothing built, nothing installed but NumPy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

import transnext_reference as reference

PROGRAM = """
import sys
import numpy
before = set(sys.modules)
sys.path.insert(0, {folder!r})
import importlib, pkgutil
import transnext_reference as reference
assert reference.__file__.startswith({folder!r}), reference.__file__
for module in pkgutil.iter_modules(reference.__path__):
    importlib.import_module("transnext_reference." + module.name)
x = numpy.ones((1, 6, 4))
reference.gelu_pool(x, grid=(2, 3), pool_grid=(1, 2))
reference.conv_glu(x, numpy.ones((2, 1, 3, 3)), grid=(2, 3))
q = numpy.ones((1, 6, 2, 4))
out = reference.global_attention(q, q, q, grid=(2, 3), scale=numpy.ones(2))
roots = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(*sorted(roots - set(sys.stdlib_module_names) - {{"numpy"}}))
"""


def test_only_numpy_and_the_standard_library_are_imported(tmp_path: Path) -> None:
    folder = str(Path(reference.__file__).resolve().parent.parent)
    finished = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM.format(folder=folder)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["transnext_reference"]


def test_public_names() -> None:
    """Every operator has its gradient, and everything that is public is there and documented."""
    assert reference.__all__ == sorted(reference.__all__)
    for name in reference.__all__:
        assert getattr(reference, name).__doc__
    operators = {
        "add_layer_norm",
        "aggregated_attention",
        "conv_glu",
        "deformable_attention",
        "expand_position_bias",
        "gelu_pool",
        "global_attention",
        "pixel_focused_attention",
        "position_bias",
        "position_bias_table",
        "window_av",
        "window_qk",
    }
    backwards = {name.removesuffix("_backward") for name in reference.__all__ if "_back" in name}
    assert backwards == operators


def test_everything_is_float64() -> None:
    """Whatever real dtype comes in."""
    x = np.ones((1, 6, 4), dtype=np.float16)
    pooled = reference.gelu_pool(x, grid=(2, 3), pool_grid=(1, 2))
    assert pooled.dtype == np.float64
    gradients = reference.gelu_pool_backward(
        pooled.astype(np.float32), x.astype(np.int32), grid=(2, 3), pool_grid=(1, 2)
    )
    assert gradients["x"].dtype == np.float64
