"""The ``transnext`` command."""

from __future__ import annotations


def main() -> None:
    """Run the command line; the entry point of the ``transnext`` script."""
    from .application import app
    from .console import make_output_robust

    make_output_robust()
    app(prog_name="transnext")
