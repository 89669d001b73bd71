"""Models that are given the annotations, and answer by them: right, or wrong in a known way.

As a program it evaluates one, to be started several times or killed:
python tests/dense_evaluation/answers.py OPTIONS, a JSON object of `DenseOptions`' fields, and
`seconds`, which each image takes besides.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from transnext_models.dense.found_objects import FoundObjects
from transnext_models.dense.run_lengths import RunLengths
from transnext_models.dense_data.find import open_validation
from transnext_models.dense_evaluation.loading import LoadedImage
from transnext_models.dense_evaluation.mean_iou import count_pixels
from transnext_models.dense_evaluation.options import DenseOptions
from transnext_models.dense_evaluation.run import Watcher, evaluate_dense
from transnext_models.dense_evaluation.subjects import Answer, Described, Subject

HEIGHT, WIDTH, CLASSES = 40, 60, 3


class GivenAnswers(Subject):
    """Answers by the annotations, moved by up to so many pixels, always the same for an image."""

    def __init__(self, data: Path, task: str, moved: int = 0, seconds: float = 0.0) -> None:
        annotated, _ = open_validation(data, task)
        self.images = {image.image_id: image for image in annotated.images}
        self.described = Described("told", "ab" * 32, 7_000_000, "none")
        self.num_classes = annotated.num_classes
        self.scales = [(60, 40)]
        self.has_masks = annotated.has_masks
        self.moved, self.seconds = moved, seconds
        self.seen: list[Any] = []

    def answer(self, image: LoadedImage) -> Answer:
        time.sleep(self.seconds)
        self.seen.append(image.image_id)
        assert [tuple(view.shape) for view in image.views] == [(3, 40, 60)]
        generator = np.random.default_rng([7, int(image.image_id)])
        if image.labels is not None:
            labels = np.roll(image.labels, generator.integers(self.moved + 1), 1)
            labels[labels == 255] = 0
            return Answer(count_pixels(image.image_id, labels, image.labels, CLASSES), labels)
        objects = self.images[image.image_id].objects
        boxes = objects.boxes + generator.integers(-self.moved, self.moved + 1, (len(objects), 4))
        masks = None
        if self.has_masks:
            bitmaps = (shape.bitmap((HEIGHT, WIDTH)) for shape in objects.shapes)
            masks = tuple(RunLengths.of(np.roll(bitmap, self.moved, 1)) for bitmap in bitmaps)
        scores = generator.random(len(objects)).astype(np.float32)
        found = boxes.astype(np.float32), scores, objects.labels, masks
        return Answer(FoundObjects(image.image_id, *found))


def write_set(root: Path, count: int = 19, seed: int = 0) -> None:
    """Write images with objects in COCO's layout, and with label maps."""
    generator = np.random.default_rng(seed)
    images, annotations = [], []
    for folder in ("val2017", "annotations", "images/validation", "masks/validation"):
        (root / folder).mkdir(parents=True)
    for folder in ("images/train", "masks/train"):
        (root / folder).mkdir(parents=True)
        Image.fromarray(np.full((4, 4), 2, np.uint8)).save(root / folder / "x.png")
    for number in range(1, count + 1):
        pixels = generator.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        name = f"{number:03}.png"
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
        for _ in range(int(generator.integers(0, 4))):
            left, top = (int(side) for side in generator.integers(0, 25, 2))
            wide, high = (int(side) for side in generator.integers(6, 15, 2))
            label = int(generator.integers(CLASSES))
            right, bottom = left + wide, top + high
            labels[top:bottom, left:right] = label
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "iscrowd": 0,
                    "category_id": 5 * label + 2, "bbox": [left, top, wide, high],
                    "area": wide * high,
                    "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                }
            )  # fmt: skip
        labels[0, 0] = 255
        Image.fromarray(pixels).save(root / "val2017" / name)
        Image.fromarray(pixels).save(root / "images" / "validation" / name)
        Image.fromarray(labels).save(root / "masks" / "validation" / name)
    categories = [{"id": 5 * label + 2, "name": f"kind {label}"} for label in range(CLASSES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(document))


class Telling(Watcher):
    def advanced(self, images: int) -> None:
        print(images, flush=True)


def main() -> None:
    torch.set_num_threads(1)
    given: dict[str, Any] = json.loads(sys.argv[1])
    seconds = given.pop("seconds", 0.0)
    paths = ("output", "data", "save_predictions")
    given |= {name: Path(given[name]) for name in paths if name in given}
    options = DenseOptions(**given, device="cpu", workers=0)
    subject = GivenAnswers(options.data, options.task, moved=2, seconds=seconds)
    outcome = evaluate_dense(options, Telling(), lambda *_: subject)
    assert not outcome.failures, outcome.failures


if __name__ == "__main__":
    main()
