"""The README's commands exist and its numbers are the package's own.

Its code blocks run in tests/docs/test_pages.py.
"""

from __future__ import annotations

import re
from pathlib import Path

from typer.testing import CliRunner

from transnext_models import VARIANTS
from transnext_models.cli.application import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^transnext (\w+)", README, flags=re.MULTILINE)


def test_set_up_commands_are_one_line_each() -> None:
    for name in ("run", "test"):
        (command,) = re.findall(rf"<!-- setup: {name} -->\n```bash\n(.*?)```", README, re.DOTALL)
        assert len(command.strip().splitlines()) == 1


def model_row(name: str, tag: str) -> str:
    """Return the README's table row of a checkpoint, from the package's data."""
    variant = VARIANTS[name]
    checkpoint = variant.checkpoint(tag)
    metrics = checkpoint.metrics
    numbers = (
        metrics.imagenet_1k, metrics.imagenet_a, metrics.imagenet_c_mce, metrics.imagenet_r,
        metrics.imagenet_sketch, metrics.imagenet_v2,
    )  # fmt: skip
    cells = [
        f"`{name}`" if tag == variant.default.tag else f"`{name}.{tag}`",
        str(checkpoint.img_size),
        f"{variant.parameters / 1e6:.1f}M",
        f"{checkpoint.gmacs:.2f}G",
        *("–" if number is None else f"{number}" for number in numbers),
    ]
    return f"| {' | '.join(cells)} |"


def test_the_table_of_variants_is_the_packages_data() -> None:
    for variant in VARIANTS.values():
        for checkpoint in variant.checkpoints:
            if checkpoint.repo is not None:
                assert model_row(variant.name, checkpoint.tag) in README


def test_the_demonstrators_size_is_stated_truly() -> None:
    thousands = round(VARIANTS["transnext_pico"].parameters / 1000)
    assert f"{thousands} thousand parameters" in README


def test_its_commands_exist() -> None:
    assert COMMANDS
    for command in sorted(set(COMMANDS)):
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0, result.output
