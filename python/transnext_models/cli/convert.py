"""``transnext convert``: any accepted weights file to safetensors."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .console import Debug, command, note, print_rows
from .optional import optional
from .weights import WeightsKey, weights_remarks

_SHOWN = 200  # characters of a text in the file


class DType(str, Enum):
    """Floating-point types to store in."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


Source = Annotated[
    str,
    typer.Argument(
        metavar="IN", help="A .pth or .safetensors file, a published name, or owner/repo:file."
    ),
]
Target = Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors file to write.")]
Store = Annotated[
    DType | None,
    optional("Type to store in.", "--dtype", default="as it is"),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace OUT if it exists.")]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("convert")(convert)


@command
def convert(
    source: Source,
    target: Target,
    weights_key: WeightsKey = None,
    dtype: Store = None,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Convert published or trained weights to safetensors, without running anything in them.

    Of a detector's or segmenter's checkpoint the TransNeXt backbone is kept. OUT appears whole or
    not at all.
    """
    import torch

    from ..checkpoints import convert as convert_file
    from ..checkpoints.errors import escaped
    from ..checkpoints.hub import resolve_weights

    stored = getattr(torch, dtype.value) if dtype is not None else None
    with weights_remarks():
        done = convert_file(
            resolve_weights(source), target, key=weights_key, dtype=stored, overwrite=force
        )
    tensors = done.weights.state_dict.values()
    rows = [
        ("written", f"{done.path} ({done.path.stat().st_size / 1e6:.1f} MB)"),
        ("weights", str(done.weights.architecture)),
        ("values", f"{sum(tensor.numel() for tensor in tensors):,}"),
        # Metadata are text that anyone may have written, of any length.
        *((escaped(name, _SHOWN), escaped(text, _SHOWN)) for name, text in done.metadata.items()),
    ]
    print_rows(rows)
    if count := done.weights.left_out:
        entries = "1 entry" if count == 1 else f"{count} entries"
        note(f"{entries} of other parts of the network {'was' if count == 1 else 'were'} left out")
