"""The list of mutations stands on the code as it is; mutations.py runs them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from emulation_build import Emulation
from mutation_list import MUTATIONS

DEVICE = Path(__file__).resolve().parents[2] / "cpp" / "cuda" / "kernels"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.file}: {m.breaks}")
def test_its_text_stands_once_in_its_file(mutation) -> None:
    assert (DEVICE / mutation.file).read_text().count(mutation.old) == 1
    assert mutation.new != mutation.old


def test_there_are_enough_of_them() -> None:
    assert len(MUTATIONS) >= 20
    words = {mutation.breaks.partition(":")[0] for mutation in MUTATIONS}
    assert words >= {"index", "mask", "barrier", "bias map", "halo", "last tile", "dtype rounding"}


@pytest.mark.skipif(shutil.which(Emulation().compiler) is None, reason="needs a C++ compiler")
def test_a_variable_may_be_left_unused(tmp_path: Path) -> None:
    """An error in the kernels as they are; what is broken is to be noticed by what it computes."""
    (tmp_path / "emulation").mkdir()
    source = tmp_path / "emulation" / "broken.cpp"
    source.write_text("int broken(int corner) { const int column = corner - 1; return corner; }\n")
    with pytest.raises(RuntimeError, match="unused variable"):
        Emulation(tmp_path, operators=[], folder=tmp_path).build()
    assert Emulation(tmp_path, operators=[], folder=tmp_path, warnings_are_errors=False).build()
