"""`transnext evaluate detect` and `segment`: the commands of `dense_evaluation`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from .console import Debug, as_json, command, keep_result, needs_extra, print_rows
from .evaluating import Incomplete, Output, Workers, checked, end, names_in, watched
from .image_files import Json
from .model_options import Backend, Device, Weights
from .optional import optional
from .weights import WeightsKey

if TYPE_CHECKING:
    from ..evaluation.engine import Speed

_EXTRA = {"timm", "torchvision", "pycocotools"}
_SHORT_HASH = 8

ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="Name of a model, see [bold]transnext models[/].  "
        "[dim]\\[default: that of the weights, or the small one in this package][/]",
        show_default=False,
    ),
]
DetectData = Annotated[
    Path | None,
    optional(
        "COCO as downloaded (annotations/, and val2017/ or val2017.zip), or images with "
        "annotations in COCO's format, YOLO's, Pascal VOC's, or instance maps: the validation "
        "split counts.",
        metavar="DIR",
    ),
]
SegmentData = Annotated[
    Path | None,
    optional(
        "ADE20K as downloaded (images/ and annotations/), or images with label maps, also "
        "Pascal VOC's: the validation split counts.",
        metavar="DIR",
    ),
]
Images = Annotated[
    Path | None,
    optional(
        "Instead of --data: the images of --annotations, a folder, or a zip or tar of them.",
        metavar="PATH",
    ),
]
Annotations = Annotated[
    Path | None,
    optional("Annotations of --images, in COCO's format.", metavar="FILE.json"),
]
SavedObjects = Annotated[
    Path | None,
    optional(
        "Score what is in this file of COCO's results, instead of running a model.",
        metavar="FILE.json",
    ),
]
SavedMaps = Annotated[
    Path | None,
    optional("Score the label maps in this folder, instead of running a model.", metavar="DIR"),
]
SaveObjects = Annotated[
    Path | None,
    optional("Save what is found, in the format of COCO's results.", metavar="FILE.json"),
]
SaveMaps = Annotated[
    Path | None,
    optional(
        "Save the label map of every image, a PNG of its name, classes counted as in the "
        "set's own; a folder for each of several modes.",
        metavar="DIR",
    ),
]
Modes = Annotated[
    str,
    typer.Option(
        "--mode",
        metavar="MODE,…",
        help="published (slide for UPerNet, whole for Mask2Former), whole, slide (windows of 512), "
        "multi_scale (six scales, each mirrored as well) or multi_scale_extrapolated (the same, "
        "another position bias).",
    ),
]
Limit = Annotated[
    int | None,
    optional("Only the first N images; the results are marked.", metavar="N", min=1),
]
Precision = Annotated[
    str, typer.Option(help="float32, float16 or bfloat16, the latter two by autocast.")
]


@command
def detect(
    model: ModelArgument = None,
    data: DetectData = None,
    images: Images = None,
    annotations: Annotations = None,
    weights: Weights = None,
    weights_key: WeightsKey = None,
    predictions: SavedObjects = None,
    save_predictions: SaveObjects = None,
    output: Output = Path("detection.csv"),
    limit: Limit = None,
    allow_incomplete: Incomplete = False,
    precision: Precision = "float32",
    backend: Backend = None,
    device: Device = "auto",
    workers: Workers = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a detector's average precision, beside the published numbers.

    Average precision of boxes, and of masks where model and set have them, as COCO defines it.
    Images go through the model one at a time, as published. A command that was stopped goes on at
    the images that have no answer yet; one whose rows are there already measures nothing again.
    """
    _evaluate("detect", dict(locals()))


@command
def segment(
    model: ModelArgument = None,
    data: SegmentData = None,
    weights: Weights = None,
    weights_key: WeightsKey = None,
    modes: Modes = "published",
    predictions: SavedMaps = None,
    save_predictions: SaveMaps = None,
    output: Output = Path("segmentation.csv"),
    limit: Limit = None,
    allow_incomplete: Incomplete = False,
    precision: Precision = "float32",
    backend: Backend = None,
    device: Device = "auto",
    workers: Workers = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a segmentor's intersection over union, beside the published numbers.

    Intersections and unions are summed over the set at the labels' own size, then the mean over
    classes is taken. A command that was stopped goes on at the images that have no answer yet; one
    whose rows are there already measures nothing again.
    """
    _evaluate("segment", {**locals(), "modes": names_in(modes)})


def _evaluate(task: str, given: dict[str, Any]) -> None:
    with needs_extra("dense", "evaluation", _EXTRA):
        from ..dense_evaluation import run
    options = checked(run.DenseOptions, {**given, "task": task})
    outcome = watched(run, run.evaluate_dense, options, _in_words)
    if outcome is None:
        return
    keep_result(lambda: {"rows": outcome.rows})
    if given["json"] and not outcome.failures:
        as_json({"rows": outcome.rows})
    elif not given["json"] and outcome.rows:
        _print_table(outcome.rows)
    end(outcome, options)


def _in_words(row: dict[str, Any], speed: Speed | None) -> str:
    text = f"{row['set']}, {row['mode']}: {row['metric']} {_number(row['value'], '.2f')}"
    if speed is None:
        return text
    return (
        f"{text}, {row['images']} images in {row['seconds']:.1f} s, "
        f"{row['details']['model_milliseconds']:.0f} ms each in the model; alone the loader would "
        f"do {speed.loader:.1f} images/s, the model {speed.model:.1f} images/s"
    )


def _print_table(rows: list[dict[str, Any]]) -> None:
    titles = ("model", "set", "mode", "images", "metric", "%", "published", "", "")
    lines: list[list[str | Text]] = [[Text(title, style="bold") for title in titles]]
    for row in rows:
        lines.append(
            [
                f"{row['model']} {row['weights_sha256'][:_SHORT_HASH]}",
                str(row["set"]),
                str(row["mode"]),
                str(row["images"]),
                str(row["metric"]),
                _number(row["value"], ".2f"),
                _number(row["published"], ".1f"),
                "" if row["difference"] is None else f"{row['difference']:+.2f}",
                str(row["note"]),
            ]
        )
    print_rows(lines, right=(3, 5, 6, 7))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
