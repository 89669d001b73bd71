"""`transnext evaluate`: the command line of `transnext_models.evaluation`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ..checkpoints.errors import escaped
from . import evaluate_dense
from .console import Debug, command, needs_extra, note, print_rows, usage_error
from .evaluating import (
    Incomplete,
    Output,
    Precision,
    Workers,
    checked,
    end,
    names_in,
    watched,
)
from .model_options import Backend, BatchSize, Device, Weights
from .optional import optional
from .subcommands import with_subcommands
from .weights import WeightsKey

if TYPE_CHECKING:
    from ..evaluation.engine import Speed
    from ..evaluation.options import EvaluationOptions

_EXTRA = {"timm", "matplotlib", "torchvision"}
_FIGURES = ("sizes",)
_SHORT_HASH = 8
_SUBCOMMANDS: dict[str, Callable[..., None]] = {
    "detect": evaluate_dense.detect,
    "segment": evaluate_dense.segment,
}


def _path(text: str) -> Any:
    return optional(text, metavar="PATH")


Imagenet = Annotated[
    Path | None, _path("ImageNet-1K's validation images; or their tar, beside the development kit.")
]
Real = Annotated[bool, typer.Option("--real", help="Judge --imagenet by the ReaL labels too.")]
RealLabels = Annotated[Path | None, _path("The published real.json, instead of timm's copy.")]
ImagenetA = Annotated[Path | None, _path("ImageNet-A.")]
ImagenetR = Annotated[Path | None, _path("ImageNet-R.")]
Sketch = Annotated[Path | None, _path("ImageNet-Sketch.")]
V2 = Annotated[Path | None, _path("ImageNet-V2: a variant, or the folder of all three.")]
ImagenetC = Annotated[Path | None, _path("ImageNet-C.")]
Folder = Annotated[Path | None, _path("Your own images, a folder for each of the model's classes.")]
ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        autocompletion=lambda incomplete: [
            name for name in _SUBCOMMANDS if name.startswith(incomplete)
        ],
        help="Name of a model, see [bold]transnext models[/], or timm/NAME for one of timm's.  "
        "[dim]\\[default: that of the weights, or transnext_pico][/]",
        show_default=False,
    ),
]
Model = Annotated[str | None, optional("The same as MODEL.")]
Sizes = Annotated[
    str | None,
    optional(
        "Sides of the square images, such as 224,256,320.",
        "--size",
        metavar="N,…",
        default="that of training",
    ),
]
Modes = Annotated[
    str,
    typer.Option(
        "--mode",
        metavar="MODE,…",
        help="normal, linear (pooled grid of the training size), interpolate (the position bias), "
        "no-length-scaling.",
    ),
]
V2Variants = Annotated[
    str,
    typer.Option(
        metavar="NAME,…", help="Of ImageNet-V2: matched-frequency, threshold-0.7, top-images."
    ),
]
Corruptions = Annotated[
    str,
    typer.Option(
        metavar="HOW",
        help="stored: --c's images. generate: made from --imagenet's, which is not ImageNet-C.",
    ),
]
Predictions = Annotated[
    Path | None,
    optional("Save the answer to every image.", metavar="FILE.npz"),
]
Figure = Annotated[
    str | None,
    optional(
        "sizes: draw the accuracy over image sizes from the rows of --output, also of earlier "
        "runs, as a PNG beside it.",
        metavar="NAME",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("evaluate", cls=with_subcommands(**_SUBCOMMANDS))(evaluate)


@command
def evaluate(
    model_name: ModelArgument = None,
    model: Model = None,
    weights: Weights = None,
    weights_key: WeightsKey = None,
    imagenet: Imagenet = None,
    real: Real = False,
    real_labels: RealLabels = None,
    a: ImagenetA = None,
    r: ImagenetR = None,
    sketch: Sketch = None,
    v2: V2 = None,
    v2_variants: V2Variants = "matched-frequency",
    c: ImagenetC = None,
    corruptions: Corruptions = "stored",
    folder: Folder = None,
    sizes: Sizes = None,
    modes: Modes = "normal",
    output: Output = Path("results.csv"),
    save_predictions: Predictions = None,
    allow_incomplete: Incomplete = False,
    precision: Precision = None,
    backend: Backend = None,
    device: Device = "auto",
    workers: Workers = None,
    batch_size: BatchSize = 64,
    figure: Figure = None,
    debug: Debug = False,
) -> None:
    """Measure accuracy and robustness, beside the published numbers.

    Sets are folders, or the uncompressed tars of their download. They are checked by name before
    anything runs. Each row of results is on the disk as soon as it is measured; the same command
    goes on where one was stopped, and further commands add rows to the same table.
    """
    given = dict(locals())
    if model_name is not None and model is not None and model_name != model:
        usage_error(f"got {model_name} and {model}, needs one model", "--model")
    if figure is not None and figure not in _FIGURES:
        usage_error(f"got {figure!r}, needs one of {', '.join(_FIGURES)}", "--figure")
    evaluation = _load()
    if figure is None or any((imagenet, a, r, sketch, v2, c, folder)):
        given |= {
            "model": model_name or model,
            "real": real or real_labels is not None,
            "v2_variants": names_in(v2_variants),
            "sizes": _numbers(sizes),
            "modes": names_in(modes),
        }
        _run(evaluation, checked(evaluation.EvaluationOptions, given))
    if figure is not None and evaluation.is_first_process():
        from ..evaluation.figure import draw_sizes

        typer.echo(f"figure: {escaped(str(draw_sizes(output)))}")


def _run(evaluation: ModuleType, options: EvaluationOptions) -> None:
    outcome = watched(evaluation, evaluation.evaluate, options, _in_words)
    if outcome is None:
        return
    _print_table(outcome.rows)
    end(outcome, options)


def _in_words(row: dict[str, Any], speed: Speed | None) -> str:
    place = " ".join(str(row[name]) for name in ("set", "corruption", "severity") if row[name])
    number = f"top-1 {row['top1']:.2f} %" if row["mce"] is None else f"mCE {row['mce']:.2f}"
    text = f"{place}, {row['img_size']}, {row['mode']}: {number}"
    if speed is None:
        return text
    return (
        f"{text}, {row['images']} images in {speed.seconds:.1f} s; alone the loader would do "
        f"{speed.loader:.0f} images/s, the model {speed.model:.0f} images/s"
    )


def _print_table(rows: list[dict[str, Any]]) -> None:
    titles = ("model", "set", "size", "mode", "images", "top-1", "top-5", "published", "", "")
    lines: list[list[str | Text]] = [[Text(title, style="bold") for title in titles]]
    for row in rows:
        if row["corruption"] and row["severity"] != "":
            continue
        top1 = f"{row['top1']:.2f} %" if row["mce"] is None else f"mCE {row['mce']:.2f}"
        lines.append(
            [
                f"{row['model']} {row['weights_sha256'][:_SHORT_HASH]}",
                str(row["set"]),
                str(row["img_size"]),
                str(row["mode"]),
                str(row["images"]),
                top1,
                f"{row['top5']:.2f} %",
                "-" if row["published"] is None else f"{row['published']:.1f}",
                "" if row["difference"] is None else f"{row['difference']:+.2f}",
                str(row["note"]),
            ]
        )
    print_rows(lines, right=(2, 4, 5, 6, 7, 8))
    for row in rows:
        if row["corruption"] and row["severity"] == "":
            _print_corruptions(row)


def _print_corruptions(row: dict[str, Any]) -> None:
    details = row["details"]
    lines: list[list[str | Text]] = [["", *map(str, range(1, 6)), "CE"]]
    for corruption, errors in details["errors"].items():
        relative = f"{details['ce'][corruption]:.2f}" if details["ce"] else "-"
        lines.append([corruption, *(f"{error:.2f}" for error in errors), relative])
    note("", f"top-1 error in % by severity; not normalised, its mean is {row['top1_err']:.2f}")
    print_rows(lines, right=range(1, 7))


def _numbers(text: str | None) -> tuple[int, ...]:
    names = names_in(text or "")
    if not all(name.isascii() and name.isdecimal() for name in names):
        usage_error(f"got {text!r}, needs numbers such as 224,256,320", "--size")
    return tuple(int(name) for name in names)


def _load() -> ModuleType:
    """Import the evaluation, which needs the packages of the extra `evaluate`."""
    with needs_extra("evaluate", "evaluation", _EXTRA):
        from ..evaluation import run
    return run


if __name__ == "__main__":
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    register(alone)
    alone()
