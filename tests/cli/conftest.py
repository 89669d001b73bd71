"""The commands' tests: small models, so one thread is fastest, also beside other tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from huggingface_hub import constants

from stand_in_hub import StandInHub, stand_in_hub, use_endpoint


class Outcome(NamedTuple):
    """What a command did: its exit code, and what it printed to standard output and error."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Compute on one thread."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which downloads are kept."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return folder


@pytest.fixture
def empty_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """A server like the Hub, which has no files yet."""
    with stand_in_hub() as server:
        use_endpoint(monkeypatch, server.url)
        yield server


@pytest.fixture
def offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address at which nothing listens."""
    use_endpoint(monkeypatch, "http://127.0.0.1:9")


@pytest.fixture
def transnext(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command of the command line in this process."""
    from transnext_models.cli.application import app

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app([str(argument) for argument in arguments], prog_name="transnext")
        code = ended.value.code
        return Outcome(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run
