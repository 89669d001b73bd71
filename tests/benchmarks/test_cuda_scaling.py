"""The page on many GPUs shows what the command derives; its commands have options that exist."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from benchmarks.cuda.scaling import MODELS, Plan, lines
from transnext_models.training.options import RunOptions

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "many-gpus.md"
GPU_PAGE = PAGE.parents[1] / "gpu.md"


def test_the_page_shows_what_the_command_prints() -> None:
    assert "\n".join(lines()) in PAGE.read_text()


def test_the_steps_are_the_measured_ones() -> None:
    page = GPU_PAGE.read_text()
    for model in MODELS:
        row = re.search(rf"\| {model.name}, float16, training step, CUDA graph \|(.*)", page)
        assert row is not None
        assert f"| {1e3 * model.step:.1f} ms |" in row[1]


def test_a_step_by_hand() -> None:
    plan = Plan(MODELS[0], 8, 128)
    assert plan.compute == pytest.approx(0.087)
    assert plan.moved == pytest.approx(2 * 7 / 8 * 28.3e6 * 4)
    assert plan.communication == pytest.approx(plan.moved / 450e9)
    assert plan.hours == pytest.approx(300 * 1251 * (0.087 + plan.communication) / 3600)
    assert Plan(MODELS[0], 32, 32).communication == pytest.approx(2 * 31 / 32 * 28.3e6 * 4 / 50e9)


def test_the_commands_of_the_page_have_options_that_exist() -> None:
    blocks = re.findall(r"^```(bash|yaml)\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    known = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(RunOptions)}
    commands = []
    for language, text in blocks:
        script = yaml.safe_load(text)["run"] if language == "yaml" else text
        joined = script.replace("\\\n", " ")
        commands += re.findall(r"(?:transnext|cli\.)\s?train (.*)", joined)
    assert len(commands) >= 5
    for command in commands:
        assert {word for word in command.split() if word.startswith("--")} <= known
