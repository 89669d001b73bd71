"""An option that need not be given: what the command takes then is in its help."""

from __future__ import annotations

from typing import Any

import typer

__all__ = ["optional"]


def optional(
    help: str, *flags: str, metavar: str | None = None, default: str = "", **limits: Any
) -> Any:
    """Return typer's option of a parameter that is None unless it is given.

    Parameters
    ----------
    help : str
        What it does, in rich's markup.
    flags : str
        Its names, such as ``--size``; that of the parameter without any.
    metavar : str | None
        What stands for its value, such as ``FILE``.
    default : str
        In words, what the command takes where it is not given.
    limits
        More of typer's arguments, such as ``min``.
    """
    if default:
        help += f"  [dim]\\[default: {default}][/]"
    return typer.Option(*flags, metavar=metavar, help=help, show_default=False, **limits)
