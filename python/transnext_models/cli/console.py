"""What every command shares: its output streams, and how a failure looks.

Results go to standard output and nothing else does; progress, remarks and errors go to standard
error. A failure is one line that says what to do, and the traceback only with ``--debug``. How it
looks in JSON is said in `application.py`, for all commands at once.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Annotated, Any, NoReturn, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from transnext_ops.distribution import install_hint

from ..checkpoints.errors import escaped

USAGE_ERROR = 2
JSON_OPTION = "--json"
INTERRUPTED = 130  # as a shell reports a program ended by ctrl-C
_BROKEN_PIPE = 141

P = ParamSpec("P")
R = TypeVar("R")

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class _Console(Console):
    """Rich's console, but for whom a reader that has left is an exception as any other."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def output() -> Console:
    """Return the console of standard output."""
    return _Console(highlight=False)


def messages() -> Console:
    """Return the console of standard error."""
    return _Console(stderr=True, highlight=False)


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
        [Text(escaped(cell)) if isinstance(cell, str) else cell for cell in row] for row in rows
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


def make_output_robust() -> None:
    """Have characters that an output cannot encode escaped instead of ending the program.

    File names may hold bytes that are no text, and an output may know ASCII only.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def note(*lines: str, console: Console | None = None) -> None:
    """Print a remark to standard error."""
    for line in lines:
        (console or messages()).print(Text(escaped(line), style="dim"), soft_wrap=True)


def report_error(*lines: str) -> None:
    """Print an error to standard error."""
    for index, line in enumerate(lines):
        title = ("error: ", "bold red") if index == 0 else ""
        messages().print(Text.assemble(title, escaped(line)), soft_wrap=True)


class UsageError(typer.BadParameter):
    """A command was called wrongly.

    Attributes
    ----------
    text : str
        What is wrong, as it is; the message is fit to be shown.
    """

    def __init__(self, text: str, option: str | None) -> None:
        super().__init__(escaped(text), param_hint=option)
        self.text = f"{option}: {text}" if option else text


class Failure(typer.Exit):
    """A command ended early, and has said so.

    Attributes
    ----------
    text : str
        Why.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code)
        self.text = text


def usage_error(text: str, option: str | None = None) -> NoReturn:
    """End the command with an error about how it was called."""
    raise UsageError(text, option)


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Give a command its manners: clean errors, ctrl-C, a closed pipe.

    The function must have a parameter ``debug: Debug``.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = function(*args, **kwargs)
            if sys.stdout is not None:
                sys.stdout.flush()  # a full disk is noticed here, not when Python ends
            return result
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            messages().print(Text("interrupted", style="yellow"))
            raise Failure(INTERRUPTED, "interrupted") from None
        except BrokenPipeError:  # whoever read the output has seen enough
            discard_output()
            raise typer.Exit(_BROKEN_PIPE) from None
        except Exception as error:
            if kwargs.get("debug"):
                raise
            lines = describe(error)
            report_error(*lines)
            if isinstance(error, OSError):
                discard_output()
            raise Failure(1, "\n".join(lines)) from None

    return run


def discard_output() -> None:
    """Forget what standard output would not take; Python would complain once more at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_so_far: Callable[[], dict[str, Any]] = dict


def keep_result(result: Callable[[], dict[str, Any]]) -> None:
    """Say what the JSON document holds where the running command fails from here on."""
    global _so_far
    _so_far = result


def result_so_far() -> dict[str, Any]:
    """Return the part of the JSON document that the running command has come to."""
    return _so_far()


def describe(error: Exception) -> list[str]:
    """Return the message of an expected error; of any other also its type and what to do."""
    from ..checkpoints.hub import DownloadError

    text = str(error)
    if isinstance(error, DownloadError):  # it says what to do, line by line
        return text.split("\n")
    if text and isinstance(error, (ValueError, RuntimeError)):
        return [text]
    if text and isinstance(error, OSError):
        return [f"{error.filename}: {error.strerror}" if error.filename else text]
    hint = "This is not meant to happen; --debug shows where it did."
    return [f"{type(error).__name__}: {text}", hint]


def as_json(value: Any) -> None:
    r"""Print `value` as JSON to standard output, in ASCII.

    A number that JSON has not, such as NaN, is null. Names that are no text keep their bytes as
    lone surrogates (``\udcff``), which `os.fsencode` turns back.
    """
    import json

    text = json.dumps(_finite(value), indent=2, allow_nan=False)
    if sys.stdout is None:
        raise OSError("standard output is closed")
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def needs_extra(extra: str, what: str, packages: Collection[str]) -> Iterator[None]:
    """Say how to install `extra`, which `what` needs, where one of its packages is missing.

    Raises
    ------
    RuntimeError
        An import within failed for one of `packages`.
    """
    try:
        yield
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in packages:
            raise RuntimeError(
                f"{what} needs the package {missing}: {install_hint(extra)}"
            ) from None
        raise
