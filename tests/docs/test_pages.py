"""The code blocks of README and of every page of the documentation run; pages keep their style.

The Python blocks of a page run in order, in one process, as a reader types them. A block that
needs a download or a GPU is marked by ``<!-- test: compile only, REASON -->`` on the line before it
and is compiled only. Blocks shown as ``py`` are examples, which test_examples.py runs.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PUBLIC = [page for page in PAGES if page.parent.name != "notes"]
BLOCK = re.compile(r"(?:<!-- test: (compile only, [^\n]*) -->\n)?```python\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
LONGEST_LINE = 120
NOT_PUBLIC = re.compile(r"\b(missed|former targets?|targets? (?:of|is|are))\b", re.IGNORECASE)


def name(page: Path) -> str:
    """Return the page's name in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return each Python block of a page, with the reason why it is only compiled, or ""."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


WITH_BLOCKS = [page for page in PAGES if blocks(page)]


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=name)
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    runnable = []
    for reason, code in blocks(page):
        if reason:
            compile(code, name(page), "exec")
        else:
            runnable.append(code.replace("pretrained=True", "pretrained=False"))  # no download
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(runnable)], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr


def test_readme_shows_models_operators_and_what_a_call_equals() -> None:
    code = "\n".join(code for _, code in blocks(ROOT / "README.md"))
    assert "transnext_models" in code
    assert "transnext_ops" in code
    assert "assert torch.allclose(ours, foveal_attention(" in code


def test_blocks_that_only_compile_are_few() -> None:
    reasons = [reason for page in PAGES for reason, _ in blocks(page) if reason]
    assert len(reasons) <= 3
    assert all("download" in reason or "GPU" in reason for reason in reasons)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        assert (page.parent / link).exists(), link


def test_every_example_is_shown_on_a_page() -> None:
    """By a line that a formatter of Markdown may take for code and tear apart."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    shown = re.findall(r'^--8<-- "([^"]+)"$', text, re.MULTILINE)
    examples = [path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").glob("*.py")]
    assert sorted(shown) == sorted(examples)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_are_short(page: Path) -> None:
    """Prose is wrapped; tables, pictures and code are as long as they are."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for line in text.splitlines():
        assert line.startswith(("|", "![")) or len(line) <= LONGEST_LINE, line


@pytest.mark.parametrize("page", PUBLIC, ids=name)
def test_public_pages_have_no_targets(page: Path) -> None:
    found = NOT_PUBLIC.search(page.read_text(encoding="utf-8"))
    assert found is None, found


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("nav:", 1)[1]
    for page in (ROOT / "docs").rglob("*.md"):
        assert f"{page.relative_to(ROOT / 'docs').as_posix()}\n" in navigation, name(page)
