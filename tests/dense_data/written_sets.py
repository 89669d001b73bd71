"""One small data set, written in every format: the same images, boxes and outlines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 40, 60
NAMES = ("apple", "pear")
CATEGORY_IDS = (3, 17)  # of COCO, which skips numbers
# (class, left, top, right, bottom): whole pixels, so that every format can say them.
OBJECTS = {
    "train": {"a": [(0, 5, 10, 20, 30), (1, 30, 2, 60, 20)], "b": [(1, 0, 0, 9, 9)], "c": []},
    "val": {"d": [(0, 1, 1, 31, 39)], "e": [(1, 12, 8, 20, 16)]},
}

Write = Callable[[Path], None]


def write_images(folder: Path, names) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        pixels = np.random.default_rng(ord(name[0])).integers(0, 256, (HEIGHT, WIDTH, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.png")


def outline(box) -> list[int]:
    _, left, top, right, bottom = box
    return [left, top, right, top, right, bottom, left, bottom]


def coco_document(split: str) -> dict:
    images, annotations = [], []
    for number, (name, boxes) in enumerate(OBJECTS[split].items(), 1):
        size = {"height": HEIGHT, "width": WIDTH}
        images.append({"id": 100 + number, "file_name": f"{name}.png", **size})
        for box in boxes:
            label, left, top, right, bottom = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 + number,
                    "category_id": CATEGORY_IDS[label],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": 0,
                    "segmentation": [outline(box)],
                }
            )
    categories = [
        {"id": category, "name": name} for category, name in zip(CATEGORY_IDS, NAMES, strict=True)
    ]
    return {"images": images, "annotations": annotations, "categories": categories[::-1]}


def write_coco(root: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    for split, images in OBJECTS.items():
        write_images(root / f"{split}2017", images)
        file = root / "annotations" / f"instances_{split}2017.json"
        file.write_text(json.dumps(coco_document(split)))


def write_coco_beside_images(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid")):
        write_images(root / folder, OBJECTS[split])
        (root / folder / "_annotations.coco.json").write_text(json.dumps(coco_document(split)))


def write_yolo(root: Path) -> None:
    for split, images in OBJECTS.items():
        write_images(root / "images" / split, images)
        labels = root / "labels" / split
        labels.mkdir(parents=True)
        for name, boxes in images.items():
            lines = []
            for label, left, top, right, bottom in boxes:
                centre = ((left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT)
                sides = ((right - left) / WIDTH, (bottom - top) / HEIGHT)
                lines.append(" ".join(map(str, (label, *centre, *sides))))
            if boxes:
                (labels / f"{name}.txt").write_text("\n".join(lines) + "\n")
    names = "\n".join(f"  {number}: {name}" for number, name in enumerate(NAMES))
    (root / "data.yaml").write_text(
        f"train: images/train\nval: images/val\nnc: 2\nnames:\n{names}\n"
    )


def write_yolo_outlines(root: Path) -> None:
    write_yolo(root)
    for split, images in OBJECTS.items():
        for name, boxes in images.items():
            lines = []
            for box in boxes:
                shares = np.array(outline(box)).reshape(-1, 2) / (WIDTH, HEIGHT)
                lines.append(" ".join(map(str, (box[0], *shares.reshape(-1)))))
            (root / "labels" / split / f"{name}.txt").write_text("\n".join(lines))


def voc_xml(name: str, boxes) -> str:
    entries = "".join(
        f"<object><name>{NAMES[label]}</name><difficult>0</difficult>"
        f"<bndbox><xmin>{left + 1}</xmin>"
        f"<ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for label, left, top, right, bottom in boxes
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}.png</filename>{size}{entries}</annotation>"


def write_voc(root: Path) -> None:
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, images in OBJECTS.items():
        write_images(root / "JPEGImages", images)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(images) + "\n")
        for name, boxes in images.items():
            (root / "Annotations" / f"{name}.xml").write_text(voc_xml(name, boxes))


def write_voc_beside_images(root: Path) -> None:
    for split, images in OBJECTS.items():
        write_images(root / split, images)
        for name, boxes in images.items():
            (root / split / f"{name}.xml").write_text(voc_xml(name, boxes))


def instance_map(boxes) -> np.ndarray:
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, (_, left, top, right, bottom) in enumerate(boxes, 1):
        values[top:bottom, left:right] = number
    return values


def class_map(boxes) -> np.ndarray:
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    for label, left, top, right, bottom in boxes:
        values[top:bottom, left:right] = label + 1
    return values


def save_palette(values: np.ndarray, file: Path) -> None:
    """As a palette image whose colours say nothing about the numbers."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    image.save(file)


def write_instance_maps(root: Path) -> None:
    for split, images in OBJECTS.items():
        write_images(root / "images" / split, images)
        for name, boxes in images.items():
            save_palette(instance_map(boxes), root / "instances" / split / f"{name}.png")
            save_palette(class_map(boxes), root / "classes" / split / f"{name}.png")
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")


DETECTION: dict[str, Write] = {
    function.__name__.removeprefix("write_"): function
    for function in (
        *(write_coco, write_coco_beside_images, write_yolo, write_yolo_outlines, write_voc),
        *(write_voc_beside_images, write_instance_maps),
    )
}
WITH_MASKS = ("coco", "coco_beside_images", "yolo_outlines", "instance_maps")


def write_label_maps(root: Path) -> None:
    """0 is a class as any other: ground."""
    for split, images in OBJECTS.items():
        write_images(root / split / "images", images)
        for name, boxes in images.items():
            (root / split / "masks").mkdir(exist_ok=True)
            Image.fromarray(class_map(boxes)).save(root / split / "masks" / f"{name}.png")


def write_palette_maps(root: Path) -> None:
    for split, images in OBJECTS.items():
        write_images(root / "images" / split, images)
        for name, boxes in images.items():
            save_palette(class_map(boxes), root / "masks" / split / f"{name}.png")
    (root / "classes.txt").write_text("ground\n" + "\n".join(NAMES))


def write_ade20k(root: Path) -> None:
    for split, images in OBJECTS.items():
        folder = "training" if split == "train" else "validation"
        write_images(root / "images" / folder, images)
        for name, boxes in images.items():
            file = root / "annotations" / folder / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(class_map(boxes)).save(file)
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    lines += [f"{n}\t0.1\t1\t1\t0\t{name}, fruit" for n, name in enumerate(NAMES, 1)]
    (root / "objectInfo150.txt").write_text("\n".join(lines) + "\n")


def write_voc_maps(root: Path) -> None:
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, images in OBJECTS.items():
        write_images(root / "JPEGImages", images)
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(images))
        for name, boxes in images.items():
            save_palette(class_map(boxes), root / "SegmentationClass" / f"{name}.png")


SEGMENTATION: dict[str, Write] = {
    function.__name__.removeprefix("write_"): function
    for function in (write_label_maps, write_palette_maps, write_ade20k, write_voc_maps)
}
