"""``transnext classify``: the five most probable classes of each image."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from ..checkpoints.errors import escaped
from .console import (
    Debug,
    as_json,
    command,
    keep_result,
    messages,
    note,
    print_rows,
    usage_error,
)
from .image_files import (
    ImageMemory,
    Images,
    Json,
    files_in_json,
    left_out_remark,
    print_skipped,
    samples_folder,
    screen_for,
    time_text,
)
from .model_options import Backend, BatchSize, Device, Labels, Weights
from .optional import optional
from .weights import WeightsKey, weights_remarks

if TYPE_CHECKING:
    from ..classification.classifier import Classified, Classifier
    from ..images import ImageError, LeftOut

_BAR_WIDTH = 24
_BAR_PARTS = " ▏▎▍▌▋▊▉█"

Model = Annotated[
    str | None,
    optional(
        "Name of a model, see [bold]transnext models[/], or a shared one: hf-hub:owner/repo, "
        "local-dir:PATH.",
        default="that of the weights, or transnext_pico",
    ),
]
Size = Annotated[
    int | None,
    optional("Side of the square the image is brought to.", default="the model's", min=32),
]
TopK = Annotated[int, typer.Option(min=1, help="Classes to show.")]
Samples = Annotated[
    bool, typer.Option("--samples", help="Classify the sample digits in this package.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("classify")(classify)


@command
def classify(
    images: Images = None,
    model: Model = None,
    weights: Weights = None,
    weights_key: WeightsKey = None,
    labels: Labels = None,
    size: Size = None,
    backend: Backend = None,
    device: Device = "auto",
    batch_size: BatchSize = 8,
    top_k: TopK = 5,
    image_memory: ImageMemory = 448,
    json: Json = False,
    samples: Samples = False,
    debug: Debug = False,
) -> None:
    """Say what is on images: the most probable classes, with the model's time for each image.

    Without options, the small model in this package reads handwritten digits.
    With --model transnext_tiny the 1000 classes of ImageNet are told apart;
    its weights are downloaded.

    A file that is no image, or one of more than 178 million pixels, is reported and skipped;
    the exit code is then 1. Of a folder, hidden files and folders are left out.
    """
    names = list(images or [])
    if samples:
        names.append(str(samples_folder("samples")))
    if not names:
        usage_error("give image files, folders or patterns, or --samples", "IMAGE")

    with messages().status("loading torch"):  # seen on a terminal only
        from ..classification.classifier import Classifier
        from ..images import ImageError, find_images

        _check_names(model, device, backend)
    found = find_images(names)
    run = _Run(list(found.problems), found.left_out)
    keep_result(run.document)
    for problem in found.problems:
        print_skipped(problem, messages())
    if found.paths:
        with weights_remarks():
            run.classifier = Classifier.load(
                model,
                weights,
                key=weights_key,
                labels=labels,
                size=size,
                device=device,
                backend=backend,
            )
    if found.left_out:
        note(left_out_remark(found.left_out))
    if run.classifier is not None:
        if not json:
            note(_headline(run.classifier))
            if run.classifier.labels[-1] == "class 999":
                note("the names of ImageNet's classes come with timm: pip install timm")
        started = time.perf_counter()
        with screen_for(len(found.paths)) as screen:
            for result in run.classifier.classify(
                found.paths, batch_size=batch_size, top_k=top_k, image_memory=image_memory << 20
            ):
                if isinstance(result, ImageError):
                    run.skipped.append(result)
                    print_skipped(result, screen.messages)
                else:
                    run.results.append(result)
                    if not json:
                        _print_result(result, screen.results)
                screen.advance()
        if not json and len(found.paths) > 1:
            note(_summary(len(run.results), len(run.skipped), time.perf_counter() - started))
    if json:
        as_json(run.document())
    if run.skipped:
        raise typer.Exit(1)


def _check_names(model: str | None, device: str, backend: str | None) -> None:
    """Turn a name that does not exist into an error of usage, before anything is loaded."""
    from transnext_ops.backends.registry import check_backend_name

    from ..classification.classifier import resolve_device
    from ..sharing import is_shared
    from ..variants import find_checkpoint

    if model is not None and is_shared(model):
        model = None  # which is found or not when it is opened
    for option, check, value in (
        ("--model", find_checkpoint, model),
        ("--device", resolve_device, device),
        ("--backend", check_backend_name, backend),
    ):
        if value is not None:
            try:
                check(value)
            except ValueError as error:
                usage_error(str(error).removeprefix(f"{option[2:]}: "), option)


def _headline(classifier: Classifier) -> str:
    side = classifier.preprocess.size
    parts = (
        classifier.name,
        f"{len(classifier.labels)} classes",
        f"{side}x{side} pixels",
        f"{classifier.backend} backend on {classifier.device}",
        classifier.weights.name,
    )
    return " · ".join(parts)


def _print_result(result: Classified, console: Console) -> None:
    title = Text.assemble(
        (escaped(str(result.path)), "bold"), "  ", (time_text(result.seconds), "dim")
    )
    console.print(title, soft_wrap=True)
    bar = _ascii_bar if console.options.ascii_only else _bar
    rows = []
    for rank, prediction in enumerate(result.predictions):
        emphasis = "" if rank == 0 else "dim"
        rows.append(
            (
                Text(escaped(prediction.label), emphasis),
                Text(f"{100 * prediction.probability:.2f} %", emphasis),
                Text(bar(prediction.probability), "green" if rank == 0 else "cyan"),
            )
        )
    print_rows(rows, right=(1,), indent=2, console=console)
    console.print()


def _bar(fraction: float) -> str:
    """Return a bar of up to 24 characters, in eighths of a character."""
    eighths = round(fraction * _BAR_WIDTH * 8)
    return _BAR_PARTS[8] * (eighths // 8) + _BAR_PARTS[eighths % 8].strip()


def _ascii_bar(fraction: float) -> str:
    return "#" * round(fraction * _BAR_WIDTH)


def _summary(done: int, skipped: int, seconds: float) -> str:
    text = f"{done} image{'s' * (done != 1)} in {time_text(seconds)}"
    if done and seconds:
        text += f" ({done / seconds:.1f} per second, decoding included)"
    return f"{text}; {skipped} skipped" if skipped else text


@dataclass
class _Run:
    """What the command has come to."""

    skipped: list[ImageError]
    left_out: list[LeftOut]
    classifier: Classifier | None = None
    results: list[Classified] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Return the document of ``--json``."""
        about: dict[str, Any] = {}
        if (classifier := self.classifier) is not None:
            about = {
                "model": classifier.name,
                "weights": str(classifier.weights),
                "num_classes": len(classifier.labels),
                "size": classifier.preprocess.size,
                "device": str(classifier.device),
                "backend": classifier.backend,
            }
        images = [
            {
                "file": str(result.path),
                "time_ms": round(1000 * result.seconds, 3),
                "predictions": [
                    {"class": p.index, "label": p.label, "probability": p.probability}
                    for p in result.predictions
                ],
            }
            for result in self.results
        ]
        return {**about, "images": images, **files_in_json(self.skipped, self.left_out)}
