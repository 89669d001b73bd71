"""The evaluation's tests: small images, so one thread is fastest."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from transnext_models.cli.application import app

Command = Callable[..., tuple[int, str, str]]
"""Exit code, standard output and standard error of a command."""


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Compute on one thread."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep indices of archives out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


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
