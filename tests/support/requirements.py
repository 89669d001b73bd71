"""What tests need to be installed."""

from __future__ import annotations

import importlib.metadata

import pytest


def needs(*distributions: str) -> list[pytest.MarkDecorator]:
    """Return marks that skip tests where one of these distributions is not installed.

    It looks for distributions and not for their modules, since looking for pip's module turns
    setuptools' own distutils off for the rest of the process.
    """
    return [
        pytest.mark.skipif(not _installed(name), reason=f"needs {name}") for name in distributions
    ]


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
