"""Retired words stay out of documents, comments, messages and identifiers.

The project once had words of its own for what the field has names for. A line that one of them
fits fails here and names the field's word. ``git ls-files`` says what is looked at.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A space fits any white space, the underscore of a name and the hump of a CamelCase name.
RETIRED = {
    r"products? alone": "GEMM and convolution time",
    r"over (its|their|the) floors?": "× roofline",
    r"(made|computed|calculated) (again|anew)": "recomputed, rebuilt, repacked",
    r"told (by|from)": "reported by, distinguished from",
    r"held to": "tested against",
    r"the truth": "the oracle",
    r"pooled products?": "QKᵀ and PV over the pooled keys",
    r"stretch(es)?": "token tile, work item",
    r"turned (weights?|kernels?|tensors?)": "flipped",
    r"contests?": "baselines, interleaved runs",
    r"(quads|eights)": "16-byte vectors, vec8, 4×4 transpose",
    r"(matrix product|multiply)\.h": "packed and small GEMM",
    r"ops\.branches": "fused_blocks",
}
EXCEPTIONS = {
    "CHANGELOG.md": "history",
    "docs/notes/": "dated notes, as they were written",
    "tests/packaging/test_words.py": "the list",
    "tests/golden/": "data",
}
TEXT = (".py", ".pyi", ".md", ".h", ".cpp", ".cu", ".cuh", ".inc", ".toml", ".yml", ".yaml", ".sh",
        ".cmake", ".txt", ".json", ".cff", "run")  # fmt: skip
_PATTERNS = {
    re.compile(rf"\b{pattern}\b".replace(" ", r"[\s_]+"), re.IGNORECASE): instead
    for pattern, instead in RETIRED.items()
}


def plain(text: str) -> str:
    """Return text of as many lines, whose sentences go on over comment signs and humps."""
    text = re.sub(r"\n[ \t]*(#|//|\*)+", "\n", text)
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text)
    return re.sub(r"_", " ", text)


def found(text: str) -> list[tuple[int, str, str]]:
    """Return line, words and what to write instead."""
    readable = plain(text)
    return sorted(
        (readable.count("\n", 0, match.start()) + 1, " ".join(match.group().split()), instead)
        for pattern, instead in _PATTERNS.items()
        for match in pattern.finditer(readable)
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the products\n    # alone take 2 ms", "products alone"),
        ("struct TurnedWeights;", "Turned Weights"),
        ("made_again = 1", "made again"),
        ('#include "matrix_product.h"', "matrix product.h"),
        ("3 times over its floor.", "over its floor"),
    ],
)
def test_they_are_found(text: str, words: str) -> None:
    assert [match[1] for match in found(text)] == [words]


@pytest.mark.parametrize(
    "text", ["withheld too", "stretched images", "foretold byte", "contestant"]
)
def test_other_words_are_not(text: str) -> None:
    assert found(text) == []


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a checkout")
def test_no_file_has_them() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    lines = []
    for name in listed:
        if not name.endswith(TEXT) or name.startswith(tuple(EXCEPTIONS)):
            continue
        if not (ROOT / name).is_file():
            continue
        for line, words, instead in found(name + "\n" + (ROOT / name).read_text("utf-8")):
            lines.append(f"{name}:{line - 1}: {words!r}: the field says {instead}")
    assert not lines, "\n".join(lines)
