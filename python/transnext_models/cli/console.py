"""What every command shares: where text goes, and how a failure looks.

Results go to standard output and nothing else does; progress, remarks and errors go to standard
error. A failure is one line that says what to do, and the traceback only with ``--debug``.
"""

from __future__ import annotations

import functools
import io
import os
import sys
import unicodedata
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.text import Text

USAGE_ERROR = 2
INTERRUPTED = 130  # as a shell reports a program ended by ctrl-C
_BROKEN_PIPE = 141

P = ParamSpec("P")
R = TypeVar("R")

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def output() -> Console:
    """Return the console of standard output."""
    return Console(highlight=False)


def messages() -> Console:
    """Return the console of standard error."""
    return Console(stderr=True, highlight=False)


def print_rows(
    rows: Sequence[Sequence[str | Text]],
    *,
    right: Sequence[int] = (),
    indent: int = 0,
    console: Console | None = None,
) -> None:
    """Print rows in aligned columns, the columns numbered in `right` flush right.

    Nothing is cut off and no blanks are added at the ends of lines: a long last column goes on, for
    a terminal to wrap and for a program to read.
    """
    cells = [
        [Text(printable(cell)) if isinstance(cell, str) else cell for cell in row] for row in rows
    ]
    widths = [max(cell.cell_len for cell in column) for column in zip(*cells, strict=True)]
    for row in cells:
        line = Text(" " * indent)
        for index, cell in enumerate(row):
            blanks = " " * (widths[index] - cell.cell_len)
            line.append_text(Text(blanks) + cell if index in right else cell + Text(blanks))
            line.append("  ")
        line.rstrip()
        (console or output()).print(line, soft_wrap=True)


def printable(text: str) -> str:
    """Return `text` with control characters escaped, but for line ends.

    Names of files and of entries in files may hold what moves a terminal's cursor or worse.
    """
    return "".join(
        char.encode("unicode_escape").decode() if _is_control(char) else char for char in text
    )


def _is_control(char: str) -> bool:
    return char != "\n" and unicodedata.category(char) in ("Cc", "Cs")


def make_output_robust() -> None:
    """Have characters that an output cannot encode escaped instead of ending the program.

    File names may hold bytes that are no text, and an output may know ASCII only.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def note(text: str, console: Console | None = None) -> None:
    """Print a remark to standard error."""
    (console or messages()).print(Text(printable(text), style="dim"), soft_wrap=True)


def report_error(text: str) -> None:
    """Print an error to standard error."""
    messages().print(Text.assemble(("error: ", "bold red"), printable(text)), soft_wrap=True)


def usage_error(text: str, option: str | None = None) -> NoReturn:
    """End the command with an error about how it was called."""
    raise typer.BadParameter(text, param_hint=option)


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Give a command its manners: clean errors, ctrl-C, a closed pipe.

    The function must have a parameter ``debug: Debug``.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            messages().print(Text("interrupted", style="yellow"))
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read the output has seen enough; Python would complain once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(_BROKEN_PIPE) from None
        except Exception as error:
            if kwargs.get("debug"):
                raise
            report_error(_description(error))
            raise typer.Exit(1) from None

    return run


def _description(error: Exception) -> str:
    """Return the message of an expected error; of any other also its type and what to do."""
    text = str(error)
    if text and isinstance(error, (ValueError, RuntimeError)):
        return text
    if text and isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else text
    kind = type(error).__name__
    return f"{kind}: {text}\nThis is not meant to happen; --debug shows where it did."


def as_json(value: Any) -> None:
    """Print `value` as JSON, in ASCII, to standard output."""
    import json

    sys.stdout.write(json.dumps(value, indent=2) + "\n")
