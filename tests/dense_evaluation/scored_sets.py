"""Small sets with objects, and detections that are right."""

from __future__ import annotations

import numpy as np

from transnext_models.dense.found_objects import FoundObjects
from transnext_models.dense.run_lengths import RunLengths
from transnext_models.dense_data.records import AnnotatedImage, AnnotatedSet, Objects

SIZE = (100, 120)


def mask_of(box) -> RunLengths:
    mask = np.zeros(SIZE, np.uint8)
    left, top, right, bottom = (int(side) for side in box)
    mask[top:bottom, left:right] = 1
    return RunLengths.of(mask)


def objects_of(*entries, crowd=None) -> Objects:
    """From (label, left, top, right, bottom)."""
    boxes = [entry[1:] for entry in entries]
    shapes = [mask_of(box) for box in boxes]
    return Objects.of(boxes, [entry[0] for entry in entries], crowd=crowd, shapes=shapes)


def annotated_set(*images: Objects, ids=None, category_ids=(1, 5, 9)) -> AnnotatedSet:
    ids = range(1, len(images) + 1) if ids is None else ids
    return AnnotatedSet(
        [
            AnnotatedImage(image_id, f"{image_id}.jpg", SIZE, objects)
            for image_id, objects in zip(ids, images, strict=True)
        ],
        tuple(f"class {category}" for category in category_ids),
        tuple(category_ids),
        "made up",
    )


def detections(image_id, *entries) -> FoundObjects:
    """From (label, score, left, top, right, bottom)."""
    boxes = np.array([entry[2:] for entry in entries], np.float64).reshape(-1, 4)
    return FoundObjects(
        image_id,
        boxes,
        np.array([entry[1] for entry in entries], np.float64),
        np.array([entry[0] for entry in entries], np.int64),
        tuple(mask_of(box) for box in boxes),
    )


def random_set(seed: int = 0, count: int = 6) -> AnnotatedSet:
    generator = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        entries = []
        for label in range(3):
            for _ in range(int(generator.integers(1, 4))):
                left, top = generator.integers(0, 60, 2)
                wide, high = generator.integers(5, 40, 2)
                entries.append((label, left, top, left + wide, top + high))
        images.append(objects_of(*entries))
    return annotated_set(*images)


def perfect(annotated: AnnotatedSet) -> list[FoundObjects]:
    found = []
    for image in annotated.images:
        entries = zip(image.objects.labels, image.objects.boxes, strict=True)
        found.append(detections(image.image_id, *((label, 0.9, *box) for label, box in entries)))
    return found
