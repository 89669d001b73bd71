"""Options of the commands that run a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Backend", "BatchSize", "Device", "Labels", "Weights"]

Weights = Annotated[
    str | None,
    typer.Option(
        help="Weights: a file (.pth, .safetensors), a published name, or owner/repo:file on the "
        "Hub.  [dim]\\[default: the model's][/]",
        show_default=False,
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="Names of the classes: .txt (a line each), .json or .csv.  "
        "[dim]\\[default: the weights' own, or the model's][/]",
        show_default=False,
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        help="auto, cpp, cupy, torch or reference, see [bold]transnext info[/].  "
        "[dim]\\[default: auto][/]",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images in the model at a time.")]
