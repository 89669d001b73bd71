"""The commands' tests: small models, so one thread is fastest, also beside other tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch


class Outcome(NamedTuple):
    """What a command did: its exit code, and what it printed to standard output and error."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
