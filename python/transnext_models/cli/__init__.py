"""The ``transnext`` command."""

from __future__ import annotations


def main() -> None:
    """Run the command line; the entry point of the ``transnext`` script."""
    from .application import app

    app(prog_name="transnext")
