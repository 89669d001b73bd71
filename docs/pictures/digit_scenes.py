"""Draw what the small detector finds: docs/pictures/digit_scenes.jpg.

Run: ``pip install ".[dense]"`` and ``python docs/pictures/digit_scenes.py [OUTPUT]``

Sample scenes of the package, which no training saw.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

import transnext_models
from transnext_models.detecting import Detected, Detector

SCENES = (1, 4, 5)
SIZE = (480, 360)  # of a scene
GAP = 8


def main() -> None:
    """Draw the picture."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_suffix(".jpg"))
    folder = Path(transnext_models.__file__).parent / "assets" / "scenes"
    files = [folder / f"scene_{number:02}.jpg" for number in SCENES]
    detector = Detector.load(device="cpu")
    sheet = Image.new("RGB", ((SIZE[0] + GAP) * len(files) - GAP, SIZE[1]), "white")
    for column, result in enumerate(detector.detect(files)):
        assert isinstance(result, Detected)
        picture = result.picture(detector.palette).resize(SIZE, Image.Resampling.LANCZOS)
        sheet.paste(picture, (column * (SIZE[0] + GAP), 0))
    sheet.save(output, quality=88)


if __name__ == "__main__":
    main()
