"""A handful of the runs that `killed_runs.py` kills; sixty by its own command."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.killed_runs import Stress, cases


@pytest.mark.long
@pytest.mark.slow
def test_killed_runs_end_as_others(tmp_path: Path) -> None:
    stress = Stress(tmp_path)
    for number, case in enumerate(cases("ci", 4, ranks=[1, 2], workers=[2, 0])):
        stress.survive(case, str(number))
