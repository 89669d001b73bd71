"""Draw what the two small dense models find: docs/pictures/digit_scenes.jpg.

Run: ``pip install ".[dense]"`` and ``python docs/pictures/digit_scenes.py [OUTPUT]``

Sample scenes of the package, which no training saw: objects above, classes of pixels below.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

import transnext_models
from transnext_models.detecting import Detected, Detector
from transnext_models.segmenting import Segmented, Segmentor, overlay

SCENES = (1, 4, 5)
SIZE = (480, 360)  # of a scene
GAP = 8


def main() -> None:
    """Draw the picture."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_suffix(".jpg"))
    folder = Path(transnext_models.__file__).parent / "assets" / "scenes"
    files = [folder / f"scene_{number:02}.jpg" for number in SCENES]
    detector = Detector.load("maskrcnn_transnext_pico", device="cpu")
    segmentor = Segmentor.load("upernet_transnext_pico", device="cpu")
    width, height = (SIZE[0] + GAP) * len(files) - GAP, 2 * SIZE[1] + GAP
    sheet = Image.new("RGB", (width, height), "white")
    found = zip(detector.detect(files), segmentor.segment(files), strict=True)
    for column, (objects, pixels) in enumerate(found):
        assert isinstance(objects, Detected)
        assert isinstance(pixels, Segmented)
        pictures = (
            objects.picture(detector.palette),
            overlay(pixels.image, pixels.labels, segmentor.palette),
        )
        for row, picture in enumerate(pictures):
            place = column * (SIZE[0] + GAP), row * (SIZE[1] + GAP)
            sheet.paste(picture.resize(SIZE, Image.Resampling.LANCZOS), place)
    sheet.save(output, quality=88)


if __name__ == "__main__":
    main()
