"""``transnext segment``: what every pixel shows, as pictures and shares of classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from PIL import Image
from rich.console import Console

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
    screen_for,
    title_of,
)
from .model_options import Device
from .weights import weights_remarks

if TYPE_CHECKING:
    from ..images import ImageError, LeftOut
    from ..segmenting import Segmented, Segmentor

_MOST_CLASSES = 8  # shown in text
_PALETTE_COLOURS = 256  # that a PNG has at most

Model = Annotated[str, typer.Option(help="Name of a segmentor, UPerNet or Mask2Former.")]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Weights: a file (.pth, .safetensors) or owner/repo:file on the Hub.  "
        "[dim]\\[default: the published ones][/]",
        show_default=False,
    ),
]
Mode = Annotated[
    str | None,
    typer.Option(
        help="whole, slide or multi_scale (six scales, each mirrored as well).  "
        "[dim]\\[default: as published][/]",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        file_okay=False,
        help="Folder for pictures: NAME.png, the classes' colours over the image, and "
        "NAME_labels.png, the class of each pixel.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("segment")(segment)


@command
def segment(
    images: Images = None,
    model: Model = "upernet_transnext_tiny",
    weights: Weights = None,
    mode: Mode = None,
    device: Device = "cpu",
    out: Out = None,
    image_memory: ImageMemory = 448,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what every pixel of images shows: the share of each class, and pictures with --out.

    The published models tell 150 classes of ADE20K apart; their weights are downloaded.

    A file that is no image is reported and skipped; the exit code is then 1.
    """
    if not images:
        usage_error("give image files, folders or patterns", "IMAGE")
    with messages().status("loading torch"):  # seen on a terminal only
        from ..images import ImageError, find_images
        from ..segmenting import Segmentor

    found = find_images(images)
    run = _Run(list(found.problems), found.left_out)
    keep_result(run.document)
    for problem in found.problems:
        print_skipped(problem, messages())
    if found.left_out:
        note(left_out_remark(found.left_out))
    if found.paths:
        with weights_remarks():
            segmentor = Segmentor.load(model, weights, mode=mode, device=device)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        with screen_for(len(found.paths)) as screen:
            for result in segmentor.segment(found.paths, image_memory=image_memory << 20):
                if isinstance(result, ImageError):
                    run.skipped.append(result)
                    print_skipped(result, screen.messages)
                else:
                    picture = None if out is None else _save(result, segmentor, out)
                    run.add(result, picture)
                    if not json:
                        _print_result(result, picture, screen.results)
                screen.advance()
    if json:
        as_json(run.document())
    if run.skipped:
        raise typer.Exit(1)


def _save(result: Segmented, segmentor: Segmentor, folder: Path) -> Path:
    """Write the pictures of a result under names that are not taken; return the first's."""
    stem, number = result.path.stem, 1
    while (folder / f"{stem}.png").exists() or (folder / f"{stem}_labels.png").exists():
        number += 1
        stem = f"{result.path.stem}_{number}"
    labels = Image.fromarray(
        result.labels.astype("uint8" if segmentor.model.num_classes <= 256 else "uint16")
    )
    if segmentor.model.num_classes <= 256:
        labels.putpalette(segmentor.palette.tobytes())
    picture = folder / f"{stem}.png"
    result.picture(segmentor.palette).save(picture)
    labels.save(folder / f"{stem}_labels.png")
    return picture


def _print_result(result: Segmented, picture: Path | None, console: Console) -> None:
    console.print(title_of(result.path, result.seconds), soft_wrap=True)
    shown = [(item.label, item.share) for item in result.classes[:_MOST_CLASSES]]
    if rest := result.classes[_MOST_CLASSES:]:
        shown.append((f"{len(rest)} more", sum(item.share for item in rest)))
    rows = [(name, f"{100 * share:.1f} %") for name, share in shown]
    print_rows(rows, right=(1,), indent=2, console=console)
    if picture is not None:
        note(f"  {picture}", console=console)
    console.print()


class _Run:
    """What the command has come to."""

    def __init__(self, skipped: list[ImageError], left_out: list[LeftOut]) -> None:
        self.skipped, self.left_out = skipped, left_out
        self.images: list[dict[str, Any]] = []

    def add(self, result: Segmented, picture: Path | None) -> None:
        """Keep what ``--json`` says of a result."""
        height, width = result.labels.shape
        entry: dict[str, Any] = {
            "file": str(result.path),
            "width": width,
            "height": height,
            "time_ms": round(1000 * result.seconds, 3),
            "classes": [
                {"class": item.index, "label": item.label, "share": item.share}
                for item in result.classes
            ],
        }
        if picture is not None:
            entry["picture"] = str(picture)
        self.images.append(entry)

    def document(self) -> dict[str, Any]:
        """Return the document of ``--json``."""
        return {"images": self.images, **files_in_json(self.skipped, self.left_out)}
