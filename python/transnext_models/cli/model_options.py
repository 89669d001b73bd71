"""Options of the commands that run a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .optional import optional

__all__ = ["Backend", "BatchSize", "Device", "Labels", "Weights"]

Weights = Annotated[
    str | None,
    optional(
        "Weights: a file (.pth, .safetensors), a published name, or owner/repo:file on the Hub.",
        default="the model's",
    ),
]
Labels = Annotated[
    Path | None,
    optional(
        "Names of the classes: .txt (a line each), .json or .csv.",
        "--labels",
        metavar="FILE",
        default="the weights' own, or the model's",
    ),
]
Backend = Annotated[
    str | None,
    optional("auto, cpp, cupy, torch or reference, see [bold]transnext info[/].", default="auto"),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images in the model at a time.")]
