"""What commands that take images share: their argument, progress, and what became of files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.text import Text

from ..checkpoints.errors import escaped
from .console import JSON_OPTION, messages, output

if TYPE_CHECKING:
    from ..images import ImageError, LeftOut

_PROGRESS_FROM = 2  # images; one is done before a bar could be read
_MOST_REASONS, _MOST_NAMES = 5, 3  # of files left out, shown in text

Images = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMAGE",
        help="Image files, folders (searched with all folders below), quoted patterns, pipes, or "
        "- for standard input.",
        show_default=False,
    ),
]
ImageMemory = Annotated[
    int,
    typer.Option(
        min=64,
        metavar="MIB",
        help="Memory that decoding may take, over all threads; images that need more are skipped.",
    ),
]
Json = Annotated[bool, typer.Option(JSON_OPTION, help="Print JSON instead of tables.")]


def samples_folder(name: str) -> Path:
    """Return a folder of images in this package.

    Raises
    ------
    ValueError
        If this installation lacks it.
    """
    from importlib import resources

    folder = Path(str(resources.files("transnext_models") / "assets" / name))
    if not folder.is_dir():
        raise ValueError("this installation lacks its sample images; install the package again")
    return folder


class Screen(NamedTuple):
    """Where results and messages go while images are classified, and how progress is shown."""

    results: Console
    messages: Console
    advance: Callable[[], None]


@contextmanager
def screen_for(total: int, what: str = "images") -> Iterator[Screen]:
    """Show a progress bar below what is printed, if there are many images and a person watching."""
    results, remarks = output(), messages()
    if total < _PROGRESS_FROM or not remarks.is_terminal:
        yield Screen(results, remarks, lambda: None)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), what, TimeRemainingColumn())
    with Progress(
        *columns, console=remarks, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as progress:
        task = progress.add_task("", total=total)
        # Whatever shares the terminal with the bar must be printed through it.
        shared = remarks if results.is_terminal else results
        yield Screen(shared, remarks, lambda: progress.advance(task))


def print_skipped(problem: ImageError, console: Console) -> None:
    """Say that a file is skipped, and why."""
    text = Text.assemble(("skipped ", "bold yellow"), escaped(str(problem)))
    console.print(text, soft_wrap=True)


def left_out_remark(groups: list[LeftOut]) -> str:
    """Say how many files were left out for which reasons, and which, where there are few."""
    groups = sorted(groups, key=lambda group: -group.count)
    phrases = []
    for group in groups[:_MOST_REASONS]:
        names = ", ".join(str(path) for path in group.paths[:_MOST_NAMES])
        more = ", …" if len(group.paths) > _MOST_NAMES else ""
        phrases.append(f"{group.count} {group.reason}" + (f" ({names}{more})" if names else ""))
    if others := groups[_MOST_REASONS:]:
        phrases.append(f"{sum(group.count for group in others)} of other kinds")
    return f"left out: {', '.join(phrases)}"


def time_text(seconds: float) -> str:
    """Return a time in milliseconds or seconds."""
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def title_of(path: Path, seconds: float) -> Text:
    """Return the line above an image's result: its name, and the model's time."""
    return Text.assemble((escaped(str(path)), "bold"), "  ", (time_text(seconds), "dim"))


def files_in_json(skipped: list[ImageError], left_out: list[LeftOut]) -> dict[str, Any]:
    """Return what ``--json`` says of files without a result."""
    document: dict[str, Any] = {
        "skipped": [{"file": problem.path, "error": problem.reason} for problem in skipped]
    }
    if left_out:
        document["left_out"] = [
            {"reason": group.reason, "count": group.count, "files": list(map(str, group.paths))}
            for group in left_out
        ]
    return document
