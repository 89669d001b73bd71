"""The tests of detection's and segmentation's scores: one thread, and the command line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from transnext_models.cli.application import app

Command = Callable[..., tuple[int, str, str]]
"""Exit code, standard output and standard error of a command."""


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Compute on one thread."""


@pytest.fixture
def transnext(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app([str(argument) for argument in arguments], prog_name="transnext")
        code = ended.value.code
        return (code if isinstance(code, int) else 0, *capsys.readouterr())

    return run
