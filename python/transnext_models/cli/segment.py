"""``transnext segment``: what every pixel shows, as pictures and shares of classes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from PIL import Image

from .console import Debug, command, messages
from .dense_run import DenseTask, DenseWeights, Samples, run_on_files
from .image_files import ImageMemory, Images, Json
from .model_options import Device, Labels
from .optional import optional
from .weights import WeightsKey

if TYPE_CHECKING:
    from ..images import FoundImages
    from ..segmenting import Segmented

_PALETTE_COLOURS = 256  # that a PNG has at most
_VIDEO_ROWS = 2  # of the legend, in every frame

Model = Annotated[
    str | None,
    optional(
        "Name of a segmentor, UPerNet or Mask2Former.",
        default="that of the weights, or upernet_transnext_pico: digits",
    ),
]
Mode = Annotated[
    str | None,
    optional(
        "whole, slide or multi_scale (six scales, each mirrored as well).", default="as published"
    ),
]
Out = Annotated[
    Path | None,
    optional(
        "Folder for pictures: NAME.png, the classes' colours over the image, and "
        "NAME_labels.png, the class of each pixel. Of a video NAME.mp4.",
        file_okay=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("segment")(segment)


@command
def segment(
    images: Images = None,
    model: Model = None,
    weights: DenseWeights = None,
    weights_key: WeightsKey = None,
    labels: Labels = None,
    mode: Mode = None,
    device: Device = "cpu",
    out: Out = None,
    image_memory: ImageMemory = 448,
    json: Json = False,
    samples: Samples = False,
    debug: Debug = False,
) -> None:
    """Say what every pixel of images shows: the share of each class, and pictures with --out.

    The published models tell 150 classes of ADE20K apart; their weights are downloaded.
    Videos are taken frame by frame, where the extra video is installed.

    A file that is no image is reported and skipped; the exit code is then 1.
    """

    def load(found: FoundImages, entered: ExitStack) -> DenseTask[Segmented]:
        with messages().status("loading torch"):  # seen on a terminal only
            from ..segmenting import Segmentor

        segmentor = Segmentor.load(
            model, weights, key=weights_key, mode=mode, labels=labels, device=device
        )

        def pictures(result: Segmented) -> dict[str, Image.Image]:
            few = segmentor.model.num_classes <= _PALETTE_COLOURS
            map_ = Image.fromarray(result.labels.astype("uint8" if few else "uint16"))
            if few:
                map_.putpalette(segmentor.palette.tobytes())
            return {".png": result.picture(segmentor.palette), "_labels.png": map_}

        return DenseTask(
            segmentor,
            lambda files: segmentor.segment(files, image_memory=image_memory << 20),
            _entry,
            lambda result: [(item.label, f"{100 * item.share:.1f} %") for item in result.classes],
            pictures,
            lambda result: result.picture(segmentor.palette, rows=_VIDEO_ROWS),
        )

    run_on_files(images, samples, load, out=out, json=json)


def _entry(result: Segmented) -> dict[str, Any]:
    classes = [
        {"class": item.index, "label": item.label, "share": item.share} for item in result.classes
    ]
    return {"classes": classes}
