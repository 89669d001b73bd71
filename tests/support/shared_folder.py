"""Where the workers of one run of pytest find what one of them has made (`tools.made_once`)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

__all__ = ["shared_folder"]


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the folder of this run of pytest that all its workers have, if it has any."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
