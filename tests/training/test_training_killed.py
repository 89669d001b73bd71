"""A handful of the runs that `killed_runs.py` kills; fifty by its own command."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from training.killed_runs import Case, Stress


@pytest.mark.slow
def test_killed_runs_end_as_others(tmp_path: Path) -> None:
    stress = Stress(tmp_path)
    for number in range(4):
        case = Case.draw(random.Random(f"ci/{number}"))
        stress.survive(case, str(number))
