"""What the commands that evaluate share: options, and how they say how it goes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.text import Text

from ..checkpoints.errors import escaped
from .console import messages, note, usage_error
from .optional import optional
from .weights import weights_remarks

if TYPE_CHECKING:
    from ..evaluation.engine import Speed
    from ..evaluation.outcome import Outcome

T = TypeVar("T")
InWords = Callable[[dict[str, Any], "Speed | None"], str]

Output = Annotated[
    Path, typer.Option(metavar="FILE.csv", help="The table; .json and .md are written beside it.")
]
Incomplete = Annotated[
    bool,
    typer.Option(
        "--allow-incomplete", help="Go on where a set is not whole, and mark the results."
    ),
]
Precision = Annotated[
    str | None,
    optional(
        "float32, float16 or bfloat16, the latter two by autocast.",
        default="float16 on CUDA, as published, else float32",
    ),
]
Workers = Annotated[
    int | None,
    optional("Processes that load images, for each process.", default="one per core", min=0),
]


def checked(kind: Callable[..., T], given: dict[str, Any]) -> T:
    """Return the options of the evaluation, of all that the command has.

    What is wrong with one is an error of the command's option of that name.
    """
    names = inspect.signature(kind).parameters
    try:
        return kind(**{name: value for name, value in given.items() if name in names})
    except ValueError as error:
        option, _, text = str(error).partition(": ")
        usage_error(text, "/".join(f"--{name.replace('_', '-')}" for name in option.split(", ")))


def watched(
    evaluation: ModuleType, measure: Callable[..., Outcome], options: Any, in_words: InWords
) -> Outcome | None:
    """Evaluate, and say how it goes; return what came of it, None but in the first process.

    Parameters
    ----------
    evaluation : module
        With `Watcher`, `OtherProcessFailed` and `is_first_process`.
    measure : callable
        Takes the options and a watcher.
    options : EvaluationOptions | DenseOptions
        What is asked for.
    in_words : callable
        From a new row, and its speed, to a line.
    """
    watcher = _watcher(evaluation, in_words)
    with watcher.screen, weights_remarks():
        try:
            outcome = measure(options, watcher)
        except evaluation.OtherProcessFailed:
            return None  # the first says why, unless torchrun ends it for another's exit code
    return outcome if outcome.is_first else None


def end(outcome: Outcome, options: Any) -> None:
    """Say where the results are, and of which sets there are none."""
    note(f"results: {options.output}, .json and .md beside it")
    if outcome.failures:
        raise RuntimeError("\n".join(outcome.failures))


def _watcher(evaluation: ModuleType, in_words: InWords) -> Any:
    """Return a watcher that prints, and shows a bar where a person is watching."""
    remarks = messages()
    bar: Any = None
    screen: AbstractContextManager[Any] = nullcontext()
    if remarks.is_terminal:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        screen = bar = Progress(
            *columns, console=remarks, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        bar.disable = not evaluation.is_first_process()

    class Printing(evaluation.Watcher):  # type: ignore[name-defined]
        def __init__(self) -> None:
            self.screen = screen
            self.task: Any = None

        def remark(self, text: str) -> None:
            note(text, console=remarks)

        def started(self, title: str, images: int) -> None:
            if bar is not None:
                self.task = bar.add_task(escaped(title), total=images)

        def advanced(self, images: int) -> None:
            if bar is not None:
                bar.advance(self.task, images)

        def finished(self, row: dict[str, Any], speed: Speed | None) -> None:
            self._end_bar()
            note(in_words(row, speed), console=remarks)

        def failed(self, title: str, reason: str) -> None:
            self._end_bar()
            text = Text.assemble((f"{title}: no result: ", "bold yellow"), escaped(reason))
            remarks.print(text, soft_wrap=True)

        def _end_bar(self) -> None:
            if bar is not None and self.task is not None:
                bar.remove_task(self.task)
                self.task = None

    return Printing()


def names_in(text: str) -> tuple[str, ...]:
    """Return the names in a list with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
