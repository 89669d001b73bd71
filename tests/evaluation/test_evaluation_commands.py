"""Every command of the README and of the guide is one that `transnext evaluate` understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from evaluation.conftest import Command
from transnext_models.evaluation import figure, run
from transnext_models.evaluation.run import EvaluationOptions, Outcome

ROOT = Path(__file__).resolve().parents[2]
CALL = re.compile(
    r"(?:^|`)(?:transnext|torchrun .* -m transnext_models\.cli\.)( ?evaluate [^`#\n]*)", re.M
)
COMMANDS = [
    shlex.split(call.replace("MODEL", "transnext_tiny").replace("DIR", "/data/images"))
    for page in ("README.md", "docs/guides/evaluate.md", "docs/guides/many-gpus.md")
    for call in CALL.findall((ROOT / page).read_text(encoding="utf-8"))
]


def test_the_pages_have_commands_for_every_set() -> None:
    assert len(COMMANDS) > 15
    named = {word for command in COMMANDS for word in command}
    for option in ("imagenet", "real", "a", "r", "sketch", "v2", "c", "folder", "figure"):
        assert f"--{option}" in named


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_of_the_pages_is_understood(
    arguments: list[str], transnext: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its options make sense together; nothing is run."""
    asked: list[EvaluationOptions] = []

    def noted(options: EvaluationOptions, watcher: Any) -> Outcome:
        asked.append(options)
        return Outcome(is_first=False)

    monkeypatch.setattr(run, "evaluate", noted)
    monkeypatch.setattr(figure, "draw_sizes", lambda output: output.with_suffix(".png"))
    code, printed, remarks = transnext(*arguments)
    assert code == 0, remarks
    assert len(asked) + printed.count("figure: ") == 1
