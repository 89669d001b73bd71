"""The list of mutations stands on the code as it is; mutations.py runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
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
