"""The command line's commands, each in a module of its own that imports what it needs when run."""

from __future__ import annotations

from typing import Annotated

import typer

from . import classify, convert, info, models, train

app = typer.Typer(
    name="transnext",
    help="TransNeXt image models: classify images, train, convert weights.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from transnext_ops import __version__

        typer.echo(f"transnext {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


for module in (classify, train, models, convert, info):
    module.register(app)
