"""The distribution's name is written once: another one in a hint would install foreign code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from transnext_ops import distribution

PROJECT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for folder in ("python", "benchmarks", "tools", "reference")
    for path in (PROJECT / folder).rglob("*.py")
)
# `pip install` of our distribution, or a requirement with one of our extras.
LITERAL_HINT = re.compile(r"""pip install\s+["'{]*transnext|["'`]transnext(-vision)?\[""")


def test_the_name_is_the_project_file_s() -> None:
    lines = (PROJECT / "pyproject.toml").read_text().splitlines()
    assert f'name = "{distribution.NAME}"' in lines
    own_extras = [line for line in lines if re.search(r'"transnext[^"]*\[', line)]
    assert own_extras
    assert all(f'"{distribution.NAME}[' in line for line in own_extras)


def test_hints() -> None:
    assert distribution.install_hint() == "pip install transnext-vision"
    assert distribution.install_hint("train") == "pip install 'transnext-vision[train]'"


def test_printed_hints_come_from_one_place() -> None:
    assert len(SOURCES) > 50
    own = Path(distribution.__file__).resolve()
    written_out = [
        f"{path.relative_to(PROJECT)}:{number}"
        for path in SOURCES
        if path.resolve() != own
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if LITERAL_HINT.search(line)
    ]
    assert written_out == []


@pytest.mark.parametrize("page", ["README.md", "docs", "CONTRIBUTING.md"])
def test_pages_name_no_other_distribution(page: str) -> None:
    found = PROJECT / page
    pages = sorted(found.rglob("*.md")) if found.is_dir() else [found]
    for path in pages:
        assert not re.search(r"pip install\s+'?transnext(?!-vision)\b", path.read_text()), path
