"""Workflows, templates and hooks: what they call is in the repository, and their files are read."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]


def steps(workflow: Path) -> list[dict[str, object]]:
    """Return all steps of a workflow's jobs."""
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_thin(workflow: Path) -> None:
    """A step is an action with a fixed version, or one command; scripts are ours and executable."""
    for step in steps(workflow):
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", str(step["uses"]))
            continue
        command = str(step["run"])
        assert "\n" not in command.strip()
        if command.startswith(".ci/"):
            assert os.access(ROOT / command.split()[0], os.X_OK)
        else:
            assert command.startswith("pipx run ")


def test_workflows_take_every_python_and_both_compilers() -> None:
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    matrix = yaml.safe_load(text)["jobs"]["everything"]["strategy"]["matrix"]
    assert matrix["python"] == PYTHONS
    assert {*matrix["compiler"], *(extra["compiler"] for extra in matrix["include"])} == {
        "gcc",
        "clang",
    }


def test_hooks_and_templates_are_yaml() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    names = {hook["id"] for repository in hooks["repos"] for hook in repository["hooks"]}
    assert names == {"ruff-check", "ruff-format", "clang-format", "codespell", "shellcheck"}
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(form.read_text(encoding="utf-8"))
