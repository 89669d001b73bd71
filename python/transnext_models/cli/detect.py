"""``transnext detect``: the objects on images, as pictures, JSON and COCO's results."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import Debug, command, messages
from .dense_run import DenseTask, DenseWeights, Samples, run_on_files
from .image_files import ImageMemory, Images, Json
from .model_options import BatchSize, Device, Labels
from .optional import optional
from .weights import WeightsKey

if TYPE_CHECKING:
    from ..detecting import Detected, DetectedObject
    from ..images import FoundImages

Model = Annotated[
    str | None,
    optional(
        "Name of a detector, such as dino_5scale_base or maskrcnn_transnext_tiny.",
        default="that of the weights, or maskrcnn_transnext_pico: digits",
    ),
]
Threshold = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Objects of lower scores are left out.")
]
Most = Annotated[int, typer.Option("--max", min=1, help="The most objects of an image.")]
Out = Annotated[
    Path | None,
    optional(
        "Folder for pictures: NAME.png, boxes, masks, names and scores over the image. Of a "
        "video NAME.mp4.",
        file_okay=False,
    ),
]
CocoJson = Annotated[
    Path | None,
    optional(
        "Write the objects of all images as COCO's results, with masks as run lengths; "
        "--threshold 0 for all of them.",
        "--coco-json",
        metavar="FILE",
        dir_okay=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("detect")(detect)


@command
def detect(
    images: Images = None,
    model: Model = None,
    weights: DenseWeights = None,
    weights_key: WeightsKey = None,
    labels: Labels = None,
    threshold: Threshold = 0.3,
    max_objects: Most = 100,
    device: Device = "cpu",
    batch_size: BatchSize = 1,
    out: Out = None,
    coco_json: CocoJson = None,
    image_memory: ImageMemory = 448,
    json: Json = False,
    samples: Samples = False,
    debug: Debug = False,
) -> None:
    """Find the objects on images: class, score and box of each, with Mask R-CNN its pixels too.

    Without options, the small model in this package finds handwritten digits on photographs.
    The published models know the 80 classes of COCO; their weights are downloaded.
    Videos are taken frame by frame, where the extra video is installed.

    A file that is no image is reported and skipped; the exit code is then 1.
    """

    def load(found: FoundImages, entered: ExitStack) -> DenseTask[Detected]:
        with messages().status("loading torch"):  # seen on a terminal only
            from ..dense_data.coco_results import CocoResults, image_numbers
            from ..detecting import Detector

        detector = Detector.load(model, weights, key=weights_key, labels=labels, device=device)
        results, numbers = None, dict(zip(found.paths, image_numbers(found.paths), strict=True))
        if coco_json is not None:
            results = entered.enter_context(CocoResults.written(coco_json, detector.category_ids))

        def keep(result: Detected) -> None:
            if results is not None:
                found = result.found.of_image(numbers[result.path])
                results.add(found, file_name=str(result.path))

        return DenseTask(
            detector,
            lambda files: detector.detect(
                files,
                batch_size=batch_size,
                threshold=threshold,
                max_objects=max_objects,
                image_memory=image_memory << 20,
            ),
            lambda result: {"objects": [_entry(item) for item in result.objects]},
            lambda result: [(item.label, f"{item.score:.2f}") for item in result.objects],
            lambda result: {".png": result.picture(detector.palette)},
            lambda result: result.picture(detector.palette, legend=False),
            keep,
        )

    run_on_files(images, samples, load, out=out, json=json, takes_videos=coco_json is None)


def _entry(item: DetectedObject) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "class": item.index,
        "label": item.label,
        "score": item.score,
        "box": list(item.box),
    }
    if item.mask is not None:
        entry["area"] = item.mask.area
        entry["mask"] = {"size": list(item.mask.size), "counts": item.mask.packed()}
    return entry
