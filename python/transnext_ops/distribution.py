"""The name of the distribution, and how users are told to install more of it."""

from __future__ import annotations

NAME = "transnext-vision"


def install_hint(extra: str | None = None) -> str:
    """Return the command that installs the distribution, with an extra if one is named."""
    return f"pip install {NAME}" if extra is None else f"pip install '{NAME}[{extra}]'"
