"""Every command of the README and of the guide is one that `transnext evaluate` understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from evaluation.conftest import Command
from transnext_models.dense_evaluation import run as dense_run
from transnext_models.evaluation import figure, run
from transnext_models.evaluation.run import EvaluationOptions, Outcome

ROOT = Path(__file__).resolve().parents[2]
CALL = re.compile(
    r"(?:^|`)(?:transnext|torchrun .* -m transnext_models\.cli\.)( ?evaluate [^`#\n]*)", re.M
)
WORDS = {"MODEL": "transnext_tiny", "DIR": "/data/images", "MODES": "published,multi_scale"}
STANDS_FOR = re.compile(r"\b(?:MODEL|DIR|MODES)\b")
COMMANDS = [
    shlex.split(STANDS_FOR.sub(lambda match: WORDS[match[0]], call))
    for page in (
        *("README.md", "docs/guides/evaluate.md", "docs/guides/evaluate-dense.md"),
        "docs/guides/many-gpus.md",
    )
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
    asked: list[EvaluationOptions | dense_run.DenseOptions] = []

    def noted(options: EvaluationOptions | dense_run.DenseOptions, watcher: Any) -> Outcome:
        asked.append(options)
        return Outcome(is_first=False)

    monkeypatch.setattr(run, "evaluate", noted)
    monkeypatch.setattr(dense_run, "evaluate_dense", noted)
    monkeypatch.setattr(figure, "draw_sizes", lambda output: output.with_suffix(".png"))
    code, printed, remarks = transnext(*arguments)
    assert code == 0, remarks
    assert len(asked) + printed.count("figure: ") == 1
