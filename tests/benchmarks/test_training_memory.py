"""The memory of a training step: what the table of the guide is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.training_memory import StepMemory, lines, measured
from transnext_models import create_model

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "many-gpus.md"


def test_images_are_counted_and_weights_are_not() -> None:
    small, large = measured("transnext_pico", 64), measured("transnext_pico", 128)
    parameters = sum(each.numel() for each in create_model("transnext_pico").parameters())
    assert small.parameters == 4 * parameters
    assert small.state == 16 * parameters
    # Four times as many tokens; attention's pooled keys grow too.
    assert 3.5 < large.image / small.image < 5.5


@pytest.mark.slow
def test_the_guide_has_these_numbers() -> None:
    [base] = [line for line in lines([measured("transnext_base", 224)]) if "Base" in line]
    assert base in GUIDE.read_text()


def test_sharding_spares_moments_only() -> None:
    found = StepMemory("transnext_base", 384, 800, 100)
    assert (found.state, found.saved_by_sharding) == (3200, 1400)
    assert list(lines([found]))[2].endswith("| 0.0 GB, 14.0 images |")
