"""``transnext export``: a model as a file that runs without this package."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import Debug, as_json, command, messages, note, print_rows, usage_error
from .convert import DType
from .image_files import Json, time_text
from .model_options import Labels, Weights
from .optional import optional
from .weights import WeightsKey, weights_remarks

if TYPE_CHECKING:
    from ..exporting import Exported


class Format(str, Enum):
    """Formats of files."""

    onnx = "onnx"
    pt2 = "pt2"
    torchscript = "torchscript"


class Quantize(str, Enum):
    """Types of weights that are rounded more than floating point is."""

    int8 = "int8"


Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A classifier or UPerNet, see [bold]transnext models[/].  "
        "[dim]\\[default: that of the weights][/]",
        show_default=False,
    ),
]
FileFormat = Annotated[
    Format | None,
    optional("Format of the file.", "--format", default="by the output's suffix, or onnx"),
]
Size = Annotated[
    str | None,
    optional(
        "Size of images; dynamic leaves height and width free.",
        metavar="N|HxW|dynamic",
        default="the model's",
    ),
]
Precision = Annotated[
    DType, typer.Option("--dtype", help="Of weights and features; images and outputs are float32.")
]
Rounded = Annotated[
    Quantize | None,
    optional("Round weights to 8 bits (onnx).", "--quantize"),
]
Calibration = Annotated[
    Path | None,
    optional(
        "With --quantize: images to find the ranges of activations with, which are then "
        "rounded too.",
        metavar="DIR",
    ),
]
Output = Annotated[
    Path | None,
    optional(
        "The file to write.", "--output", "-o", metavar="FILE", default="MODEL.onnx, .pt2 or .pt"
    ),
]
Mode = Annotated[
    str, typer.Option(help="normal, linear, interpolate, no-length-scaling: see evaluate.")
]
Features = Annotated[
    bool, typer.Option("--features-only", help="Give the four maps instead of logits: a backbone.")
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace FILE if it exists.")]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("export")(export)


@command
def export(
    model: Model = None,
    file_format: FileFormat = None,
    size: Size = None,
    dtype: Precision = DType.float32,
    quantize: Rounded = None,
    calibration: Calibration = None,
    weights: Weights = None,
    weights_key: WeightsKey = None,
    labels: Labels = None,
    mode: Mode = "normal",
    features_only: Features = False,
    output: Output = None,
    force: Force = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a model as an ONNX, torch.export or TorchScript file that does without this package.

    The file is run beside the model before it is kept, and holds the names of the classes and how
    images are prepared.
    """
    if model is None and weights is None:
        usage_error("give a model's name, or --weights", "MODEL")
    with messages().status("loading torch") as status:  # seen on a terminal only
        from ..exporting import FORMATS, export_model, parse_size

        if output is None:
            stem = model or Path(str(weights)).stem
            output = Path(stem + FORMATS[file_format.value if file_format else "onnx"])
        with weights_remarks():
            done = export_model(
                model,
                output,
                weights=weights,
                key=weights_key,
                mode=mode,
                features_only=features_only,
                labels=labels,
                progress=status.update,
                format=file_format.value if file_format else None,
                size=None if size is None else parse_size(size),
                dtype=dtype.value,
                quantize=quantize.value if quantize else None,
                calibration=calibration,
                overwrite=force,
            )
    if json:
        as_json(_document(done))
    else:
        _print(done)


def _print(done: Exported) -> None:
    print_rows(
        [
            ("written", f"{done.path} ({done.bytes / 1e6:.1f} MB)"),
            ("model", done.model),
            ("size", done.metadata["size"]),
            ("type", done.metadata["dtype"]),
        ]
    )
    for runner in dict.fromkeys(check.runner for check in done.checks):
        own = [check for check in done.checks if check.runner == runner]
        worst = max(check.difference for check in own)
        note(f"{runner}: at most {worst:.1e} of the largest output away, {len(own)} batches")
    print_rows(
        [
            (speed.runner, time_text(speed.seconds), f"one image of {_size(speed.images)}")
            for speed in done.speeds
        ],
        right=(1,),
    )


def _size(images: tuple[int, int]) -> str:
    return "x".join(map(str, images))


def _document(done: Exported) -> dict[str, object]:
    return {
        "file": str(done.path),
        "bytes": done.bytes,
        "metadata": done.metadata,
        "checks": [
            {"runner": c.runner, "images": list(c.images), "difference": c.difference}
            for c in done.checks
        ],
        "speeds": [
            {"runner": s.runner, "images": list(s.images), "seconds": s.seconds}
            for s in done.speeds
        ],
    }
