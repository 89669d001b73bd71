"""The command line; each command is a module of its own that imports what it needs when run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..checkpoints.errors import escaped
from . import classify, convert, detect, evaluate, export, info, models, see, segment, train
from .console import (
    INTERRUPTED,
    JSON_OPTION,
    Failure,
    as_json,
    describe,
    discard_output,
    keep_result,
    result_so_far,
)
from .subcommands import chosen

# Typer has click's exceptions from click, or, in its newer versions, from a copy of its own.
_UsageError: Any = typer.BadParameter.__mro__[1]


class _Commands(TyperGroup):
    """Commands that, called with ``--json``, print a JSON document also where they fail.

    It is what there is of the result, with the message under ``error``. The message on standard
    error and the exit code are the same with and without it.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        keep_result(dict)
        ctx.meta[JSON_OPTION] = self._wants_json(args)
        with _failure_as_json(ctx):
            parsed: list[str] = super().parse_args(ctx, args)
        return parsed

    def invoke(self, ctx: Any) -> Any:
        with _failure_as_json(ctx):
            return super().invoke(ctx)

    def _wants_json(self, args: Sequence[str]) -> bool:
        options = args[: args.index("--")] if "--" in args else args
        if JSON_OPTION not in options:
            return False
        named = chosen(self.commands.get(args[0]), args[1:])
        return named is None or any(JSON_OPTION in option.opts for option in named.params)


@contextmanager
def _failure_as_json(ctx: Any) -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        text = getattr(error, "text", None) or error.format_message()
        error.message = escaped(error.message)
        _print_failure(ctx, text)
        raise
    except Failure as failure:
        _print_failure(ctx, failure.text)
        raise
    except KeyboardInterrupt:
        _print_failure(ctx, "interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        _print_failure(ctx, "\n".join(describe(error)))
        raise


def _print_failure(ctx: Any, text: str) -> None:
    if not ctx.meta.get(JSON_OPTION):
        return
    try:
        document = result_so_far()
    except Exception:  # then the failure is all that there is
        document = {}
    with contextlib.suppress(OSError):  # nobody takes it
        as_json({**document, "error": text})
    discard_output()


app = typer.Typer(
    name="transnext",
    cls=_Commands,
    help="TransNeXt image models: classify, detect and segment, train, evaluate, export.",
    no_args_is_help=True,
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


for module in (classify, detect, segment, see, train, evaluate, models, convert, export, info):
    module.register(app)
