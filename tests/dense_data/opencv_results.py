"""What OpenCV makes of small pictures: stored, and compared again where OpenCV is installed.

pip install opencv-python-headless
python tests/dense_data/opencv_results.py            # compares thousands of pictures with OpenCV
python tests/dense_data/opencv_results.py --store    # writes golden/opencv.npz anew
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from dense_data.plain_pipelines import HueSaturation, photometric, photometric_draws
from transnext_models.dense.opencv_resize import resize_bilinear, resize_nearest
from transnext_models.dense_data.draws import GivenDraws
from transnext_models.dense_data.opencv_colours import hsv_to_rgb, rgb_to_hsv
from transnext_models.dense_data.photometric import PhotometricDistortion
from transnext_models.dense_data.sample import DenseSample

Size = tuple[int, int]
Sizes = tuple[tuple[Size, Size], ...]

FILE = Path(__file__).with_name("golden") / "opencv.npz"

SIZES = (  # of a picture, and of what it is resized to
    *(((7, 9), (16, 5)), ((8, 6), (4, 3)), ((5, 5), (10, 10)), ((1, 1), (3, 4)), ((13, 1), (4, 2))),
    *(((20, 30), (21, 29)), ((16, 16), (3, 40)), ((9, 31), (9, 31)), ((24, 10), (7, 23))),
)
COLOURS = (24, 70)
DISTORTED = (6, 68)
DISTORTIONS = range(24)  # seeds of draws


def picture(size: tuple[int, int]) -> np.ndarray:
    """Return uint8 [*size, 3], the same everywhere."""
    generator = np.random.Generator(np.random.PCG64(sum(size)))
    return generator.integers(0, 256, (*size, 3)).astype(np.uint8)


def hsv_picture(size: tuple[int, int]) -> np.ndarray:
    """Return `picture` with its first channel within 0…179."""
    return picture(size) % np.array([180, 256, 256])


def by_opencv(
    sizes: Sizes = SIZES, colours: Size = COLOURS, distortions: Iterable[int] = DISTORTIONS
) -> dict[str, np.ndarray]:
    """Return what OpenCV computes."""
    import cv2

    results = {}
    for number, (before, (height, width)) in enumerate(sizes):
        image = picture(before)
        for name, method in (("bilinear", cv2.INTER_LINEAR), ("nearest", cv2.INTER_NEAREST)):
            resized = cv2.resize(image, (width, height), interpolation=method)
            results[f"{name}{number}"] = resized
    results["hsv"] = cv2.cvtColor(picture(colours), cv2.COLOR_RGB2HSV)
    hsv = hsv_picture(colours).astype(np.uint8)
    results["rgb"] = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)

    def changed(image: np.ndarray, change: HueSaturation) -> np.ndarray:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        for place in np.ndindex(hsv.shape[:2]):
            hsv[place][:2] = change(*map(int, hsv[place][:2]))
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)

    for seed in distortions:
        values = photometric_draws(np.random.default_rng(seed))
        results[f"photometric{seed}"] = photometric(picture(DISTORTED), values, changed)
    return results


def by_us(
    sizes: Sizes = SIZES, colours: Size = COLOURS, distortions: Iterable[int] = DISTORTIONS
) -> dict[str, np.ndarray]:
    """Return what the package computes."""
    results = {}
    for number, (before, after) in enumerate(sizes):
        image = picture(before)
        results[f"bilinear{number}"] = resize_bilinear(image, after)
        channels = np.moveaxis(image, -1, 0)
        results[f"nearest{number}"] = np.moveaxis(resize_nearest(channels, after), 0, -1)
    results["hsv"] = rgb_to_hsv(picture(colours))
    results["rgb"] = hsv_to_rgb(hsv_picture(colours).astype(np.uint8))
    for seed in distortions:
        image = picture(DISTORTED)
        draws = GivenDraws(photometric_draws(np.random.default_rng(seed)))
        distorted = PhotometricDistortion()(DenseSample(image, 0, DISTORTED), draws)
        results[f"photometric{seed}"] = distorted.image
    return results


def differences(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, int]:
    """Return by kind the largest difference in grey values."""
    largest: dict[str, int] = {}
    for name, values in theirs.items():
        assert ours[name].shape == values.shape, name
        kind = name.rstrip("0123456789")
        far = int(np.abs(ours[name].astype(int) - values.astype(int)).max())
        largest[kind] = max(far, largest.get(kind, 0))
    return largest


def _many_sizes() -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    generator = np.random.default_rng(0)
    for _ in range(2000):
        height, width, new_height, new_width = (int(n) for n in generator.integers(1, 200, 4))
        yield (height, width), (new_height, new_width)
        yield (2 * new_height, 2 * new_width), (new_height, new_width)


if __name__ == "__main__":
    if "--store" in sys.argv:
        FILE.parent.mkdir(exist_ok=True)
        np.savez_compressed(FILE, **by_opencv())
    else:
        cases = (tuple(_many_sizes()), (2000, 2000), range(500))
        print(differences(by_us(*cases), by_opencv(*cases)))
