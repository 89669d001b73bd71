"""A command that has others by the same name keeps all that it had alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from transnext_models.cli.application import _Commands
from transnext_models.cli.console import Debug, as_json, command, keep_result
from transnext_models.cli.subcommands import with_subcommands

Json = Annotated[bool, typer.Option("--json")]


@command
def detect(
    model: Annotated[str, typer.Argument()] = "none",
    limit: int = 3,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a detector. With more below."""
    keep_result(lambda: {"rows": [1]})
    if limit > 5:
        raise ValueError(f"limit: got {limit}")
    as_json({"model": model}) if json else typer.echo(f"detector {model} {limit}")


@command
def measure(
    model: Annotated[str | None, typer.Argument()] = None,
    name: str = "",
    debug: Debug = False,
) -> None:
    """Measure a classifier."""
    typer.echo(f"classifier {model} {name}".strip())


@command
def fit(name: str = "", debug: Debug = False) -> None:
    """Fit a classifier."""


def register(app: typer.Typer) -> None:
    app.command(cls=with_subcommands(detect=detect))(measure)


def whole() -> typer.Typer:
    """A command line of several commands, as `transnext` is."""
    app = typer.Typer(cls=_Commands, pretty_exceptions_enable=False, rich_markup_mode="rich")
    register(app)

    app.command(cls=with_subcommands(detect=detect, segment=detect))(fit)
    return app


def alone() -> typer.Typer:
    """The command by itself, as ``python -m`` runs it."""
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich")
    register(app)
    return app


def run(app: typer.Typer, *arguments: str):
    return CliRunner().invoke(app, list(arguments), prog_name="run", env={"COLUMNS": "120"})


CASES = [
    ([], "classifier None"),
    (["tiny"], "classifier tiny"),
    (["--name", "detect"], "classifier None detect"),
    (["tiny", "--name", "detect"], "classifier tiny detect"),
    (["--", "detect"], "classifier detect"),
    (["detect"], "detector none 3"),
    (["detect", "pico", "--limit", "4"], "detector pico 4"),
    (["detect", "--limit", "4", "detect"], "detector detect 4"),
]


@pytest.mark.parametrize(("arguments", "printed"), CASES)
def test_only_a_first_argument_chooses(arguments, printed):
    assert run(whole(), "measure", *arguments).stdout == printed + "\n"
    assert run(alone(), *arguments).stdout == printed + "\n"


def test_help_is_that_of_each_command():
    own = run(whole(), "measure", "--help").stdout
    assert "run measure [OPTIONS]" in own
    assert "measure detect: Measure a detector." in own
    assert "--limit" not in own
    of_detect = run(whole(), "measure", "detect", "--help").stdout
    assert "run measure detect [OPTIONS]" in of_detect
    assert "With more below." in of_detect
    assert "--limit" in of_detect
    assert "run detect [OPTIONS]" in run(alone(), "detect", "--help").stdout


def test_errors_name_the_subcommand():
    outcome = run(whole(), "measure", "detect", "--nope")
    assert outcome.exit_code == 2
    assert "run measure detect" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "document"),
    [
        (["detect", "--json", "--limit", "9"], {"rows": [1], "error": "limit: got 9"}),
        (["detect", "--json", "--nope"], None),
    ],
)
def test_failures_are_json_where_the_subcommand_has_it(arguments, document):
    outcome = run(whole(), "measure", *arguments)
    assert outcome.exit_code != 0
    found = json.loads(outcome.stdout)
    assert "error" in found
    assert document is None or found == document
    # The command itself has no --json: then nobody asked for a document.
    assert run(whole(), "measure", *arguments[1:]).stdout == ""


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("run measure --n", ["--name"]),
        ("run measure detect --l", ["--limit"]),
        ("run fit de", ["detect"]),
        ("run fit ", ["detect", "segment"]),
    ],
)
def test_a_shell_completes_both(words, completed):
    assert complete(words) == completed


def complete(words: str) -> list[str]:
    program = "from cli.test_cli_subcommands import whole; whole()(prog_name='run')"
    return subprocess.run(
        [sys.executable, "-c", program],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "_RUN_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        },
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
