"""Test images of digits on paper, made by other means than the training's augmentation.

`pasted` puts held-out handwritten digits on sheets with Pillow: a real photograph's uneven light,
real surfaces as texture, perspective, blur and JPEG files. `drawn` writes digits with a pen along
curves defined here, so that neither shapes nor strokes come from the training's data set.
Photographs are those that scikit-image ships in its package.
"""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from skimage import data

from transnext_models.training.digits import Digits

Image8 = Image.Image
Points = list[tuple[float, float]]


def pasted(digits: Digits, seed: int) -> list[Image8]:
    """Photograph each digit on a sheet of paper, dark ink on light."""
    rng = np.random.default_rng(seed)
    return [_photograph(_pasted_ink(image, rng), rng) for image in digits.images]


def drawn(per_digit: int, seed: int) -> tuple[list[Image8], NDArray[np.int64]]:
    """Draw every digit `per_digit` times with a pen: images and labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(10), per_digit)
    return [_photograph(_drawn_ink(int(label), rng), rng) for label in labels], labels


def _canvas(rng: np.random.Generator) -> tuple[int, int]:
    """Width and height of a photograph: up to 4:3 and 3:4."""
    side = int(rng.integers(120, 300))
    return side, int(side * rng.uniform(0.75, 1.33))


def _pasted_ink(image: NDArray[np.uint8], rng: np.random.Generator) -> Image8:
    """Ink coverage (mode L) of a handwritten digit somewhere on a sheet."""
    width, height = _canvas(rng)
    sheet = Image.new("L", (width, height), 0)
    rows, columns = np.nonzero(image > 60)
    digit = Image.fromarray(image).crop(
        (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    )
    scale = rng.uniform(0.35, 0.9) * min(width, height) / max(digit.size)
    size = (max(1, round(digit.width * scale)), max(1, round(digit.height * scale)))
    digit = digit.resize(size, Image.Resampling.LANCZOS)
    # The source's 20-pixel grey edges become a pen's clear ones.
    digit = digit.point([min(255, max(0, int((value - 90) * 3))) for value in range(256)])
    left = int(rng.integers(0, width - size[0] + 1))
    top = int(rng.integers(0, height - size[1] + 1))
    sheet.paste(digit, (left, top))
    return sheet


def _arc(x: float, y: float, across: float, down: float, start: float, end: float) -> Points:
    """Points of an ellipse around (x, y) from one angle to another, degrees clockwise from the
    right."""
    count = max(8, int(abs(end - start) / 12))
    angles = np.radians(np.linspace(start, end, count))
    return [(x + across * math.cos(a), y + down * math.sin(a)) for a in angles]


# Strokes in a box 1 high and about 0.7 wide, y downwards; several ways to write a digit.
STROKES: dict[int, list[list[Points]]] = {
    0: [[_arc(0.35, 0.5, 0.33, 0.5, -90, 275)], [_arc(0.3, 0.5, 0.26, 0.5, -60, 300)]],
    1: [[[(0.35, 0.0), (0.33, 1.0)]], [[(0.12, 0.25), (0.38, 0.0), (0.38, 1.0)]]],
    2: [
        [[*_arc(0.33, 0.28, 0.3, 0.28, 190, 385), (0.04, 1.0), (0.68, 0.98)]],
        [[*_arc(0.32, 0.26, 0.28, 0.26, 200, 400), (0.2, 0.78), (0.02, 0.97), (0.7, 1.0)]],
    ],
    3: [
        [
            _arc(0.3, 0.25, 0.28, 0.25, 200, 450),
            _arc(0.3, 0.74, 0.33, 0.26, -90, 160),
        ],
        [[(0.05, 0.02), (0.6, 0.02), (0.3, 0.4), *_arc(0.3, 0.7, 0.33, 0.3, -80, 150)]],
    ],
    4: [
        [[(0.12, 0.0), (0.06, 0.52), (0.66, 0.5)], [(0.55, 0.05), (0.5, 1.0)]],
        [[(0.48, 0.0), (0.02, 0.66), (0.7, 0.66)], [(0.5, 0.3), (0.5, 1.0)]],
    ],
    5: [
        [
            [(0.12, 0.02), (0.08, 0.45), *_arc(0.28, 0.7, 0.33, 0.29, -120, 150)],
            [(0.12, 0.02), (0.62, 0.0)],
        ],
        [[(0.62, 0.0), (0.14, 0.02), (0.1, 0.44), *_arc(0.28, 0.7, 0.34, 0.3, -110, 140)]],
    ],
    6: [
        [[(0.5, 0.0), (0.24, 0.25), (0.06, 0.62), *_arc(0.32, 0.72, 0.27, 0.27, 180, -170)]],
        [[*_arc(0.62, 0.7, 0.56, 0.68, 265, 190), *_arc(0.33, 0.73, 0.28, 0.26, 180, 530)]],
    ],
    7: [
        [[(0.02, 0.05), (0.64, 0.02), (0.28, 1.0)]],
        [[(0.04, 0.06), (0.62, 0.04), (0.4, 0.45), (0.26, 1.0)]],
    ],
    8: [
        [_arc(0.33, 0.25, 0.25, 0.24, 90, 450), _arc(0.33, 0.75, 0.31, 0.26, -90, 270)],
        [
            [
                *_arc(0.34, 0.24, 0.25, 0.24, -20, -270),
                *_arc(0.34, 0.75, 0.3, 0.26, -90, 270),
                *_arc(0.34, 0.24, 0.25, 0.24, 90, -20),
            ]
        ],
    ],
    9: [
        [[*_arc(0.32, 0.27, 0.27, 0.26, 0, -350), (0.57, 0.3), (0.5, 1.0)]],
        [[*_arc(0.32, 0.28, 0.28, 0.27, -10, -360), (0.6, 0.5), (0.3, 1.0)]],
    ],
}


def _drawn_ink(label: int, rng: np.random.Generator) -> Image8:
    """Ink coverage (mode L) of a digit written with a pen: round, unsteady strokes."""
    width, height = _canvas(rng)
    sheet = Image.new("L", (width, height), 0)
    pencil = ImageDraw.Draw(sheet)
    tall = rng.uniform(0.4, 0.85) * min(width, height)
    wide = tall * rng.uniform(0.8, 1.1)
    pen = tall * rng.uniform(0.05, 0.13)
    angle, slant = math.radians(rng.uniform(-10, 10)), rng.uniform(-0.15, 0.25)
    styles = STROKES[label]
    strokes = styles[int(rng.integers(len(styles)))]
    corners = np.array([point for stroke in strokes for point in stroke])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    lean = np.array([[1.0, -slant], [0.0, 1.0]])
    placed = (corners - (0.35, 0.5)) @ lean.T * (wide, tall) @ turn.T
    placed += rng.normal(0, 0.012 * tall, placed.shape)
    low, high = placed.min(0) - pen, placed.max(0) + pen
    room = np.maximum((width, height) - (high - low), 0)
    placed += rng.uniform(0, 1, 2) * room - low
    start = 0
    for stroke in strokes:
        points = [tuple(point) for point in placed[start : start + len(stroke)]]
        start += len(stroke)
        pencil.line(points, fill=255, width=max(2, round(pen)), joint="curve")
        for x, y in (points[0], points[-1]):
            pencil.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=255)
    return sheet


def _surface(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """A piece of a real surface (bricks, grass, gravel) without its mean, about -1 to 1: [H, W]."""
    photograph = (data.brick, data.grass, data.gravel)[int(rng.integers(3))]()
    picture = Image.fromarray(photograph)
    cut = int(rng.integers(128, 512))
    left, top = (int(rng.integers(0, 512 - cut + 1)) for _ in range(2))
    picture = picture.crop((left, top, left + cut, top + cut)).resize(
        size, Image.Resampling.BICUBIC
    )
    values = np.asarray(picture, dtype=np.float64)
    return (values - values.mean()) / 128


def _uneven_light(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """The light on a real page, photographed: 0.5 to 1, [H, W]."""
    page = Image.fromarray(data.page())
    # Letters vanish under a maximum filter, the shading of the sheet stays.
    page = page.resize((96, 48)).filter(ImageFilter.MaxFilter(9))
    page = page.filter(ImageFilter.GaussianBlur(4)).rotate(90 * int(rng.integers(4)), expand=True)
    values = np.asarray(page.resize(size, Image.Resampling.BICUBIC), dtype=np.float64)
    values = (values - values.min()) / (values.max() - values.min())
    return 1 - rng.uniform(0, 0.5) * (1 - values)


def _photograph(ink: Image8, rng: np.random.Generator) -> Image8:
    """Put ink on paper and take its picture, as a JPEG file decoded again (mode RGB)."""
    size = ink.size
    sheet = rng.uniform(170, 250) * rng.uniform(0.92, 1.0, 3)
    paper = sheet + rng.uniform(0, 25) * _surface(size, rng)[..., None]
    colour = rng.uniform(0, 70, 3) + (rng.uniform(0, 60) * np.eye(3)[int(rng.integers(3))])
    coverage = np.asarray(ink, dtype=np.float64)[..., None] / 255 * rng.uniform(0.8, 1.0)
    scene = (paper + (colour - paper) * coverage) * _uneven_light(size, rng)[..., None]
    picture = Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8))
    picture = _tilted(picture, rng).filter(
        ImageFilter.GaussianBlur(rng.uniform(0, 0.006) * size[0])
    )
    noisy = np.asarray(picture, dtype=np.float64) + rng.normal(
        0, rng.uniform(0, 8), (*size[::-1], 3)
    )
    file = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(
        file, "JPEG", quality=int(rng.integers(30, 90))
    )
    return Image.open(file).convert("RGB")


def _tilted(picture: Image8, rng: np.random.Generator) -> Image8:
    """The picture from a slant: every corner moves by up to 5 % of the side, the margin is
    paper."""
    width, height = picture.size
    target = np.array([(0, 0), (width, 0), (width, height), (0, height)], dtype=np.float64)
    source = target + rng.uniform(-0.05, 0.05, (4, 2)) * (width, height)
    equations, values = [], []
    for (x, y), (u, v) in zip(target, source, strict=True):
        equations += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    coefficients = np.linalg.solve(np.array(equations), np.array(values))
    margin = tuple(int(value) for value in np.median(np.asarray(picture), axis=(0, 1)))
    return picture.transform(
        picture.size,
        Image.Transform.PERSPECTIVE,
        tuple(coefficients),
        Image.Resampling.BICUBIC,
        fillcolor=margin,
    )
