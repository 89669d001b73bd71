"""Packages that only some sources need, and how to get them."""

from __future__ import annotations

import importlib
from typing import Any

from transnext_ops.distribution import install_hint

__all__ = ["needed"]


def needed(module: str, extra: str, what: str) -> Any:
    """Import `module` for `what`, which takes the distribution's `extra`.

    Raises
    ------
    RuntimeError
        It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = (error.name or module).partition(".")[0]
        raise RuntimeError(f"{what} needs the package {package}: {install_hint(extra)}") from error
