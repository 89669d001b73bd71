"""Damaged and turned images, label maps of other sizes: a named error, or a stated treatment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dense_data.written_sets import (
    HEIGHT,
    SEGMENTATION,
    WIDTH,
)
from transnext_models.dense_data.errors import AnnotationError
from transnext_models.dense_data.find import open_annotations
from transnext_models.dense_data.label_files import read_indices
from transnext_models.dense_data.reading import read_rgb, read_sample, upright_size
from transnext_models.images import ImageError

# -- images ------------------------------------------------------------------------------------


def rotated_photo(file: Path, orientation: int) -> np.ndarray:
    """Save 20 by 30 pixels with an EXIF orientation; return them as stored."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:10, :10] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(file, exif=exif)
    return pixels


def test_the_annotated_size_says_whether_a_photograph_is_turned(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    stored = rotated_photo(file, 6)  # upright, it is turned by 90 degrees to the right
    upright = np.rot90(stored, -1)
    np.testing.assert_array_equal(read_rgb(str(file), None), upright)
    np.testing.assert_array_equal(read_rgb(str(file), (30, 20)), upright)
    np.testing.assert_array_equal(read_rgb(str(file), (20, 30)), stored)
    assert upright_size(file) == (30, 20)
    with pytest.raises(ImageError, match=r"a\.png: is 30×20, its annotations are for 20×20"):
        read_rgb(str(file), (20, 20))


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(ImageError, match=r"a\.png"):
        read_rgb(str(file), None)
    with pytest.raises(ImageError, match=r"a\.png"):
        upright_size(file)


# -- label maps --------------------------------------------------------------------------------


def test_a_label_map_of_another_size(tmp_path: Path) -> None:
    SEGMENTATION["label_maps"](tmp_path)
    file = tmp_path / "train" / "masks" / "a.png"
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(file)
    train = open_annotations(tmp_path, "segment").train
    with pytest.raises(ImageError, match="its annotations are for 5×5"):
        read_sample(train.images[0], for_training=True)


def test_a_label_map_with_an_unknown_class(tmp_path: Path) -> None:
    SEGMENTATION["palette_maps"](tmp_path)
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[4, 7] = 9
    Image.fromarray(values).save(tmp_path / "masks" / "train" / "a.png")
    train = open_annotations(tmp_path, "segment").train
    with pytest.raises(AnnotationError, match=r"row 4, column 7: got class 9, the last is 2"):
        read_sample(train.images[0], for_training=True, num_classes=3)


def test_label_maps_of_colours_and_of_three_equal_channels(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(np.repeat(grey[..., None], 3, -1)).save(file)
    np.testing.assert_array_equal(read_indices(file), grey)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 4, 3)).astype(np.uint8)).save(
        file
    )
    with pytest.raises(AnnotationError, match="has colours, needs class numbers"):
        read_indices(file)
    file.write_bytes(b"no image")
    with pytest.raises(AnnotationError, match="cannot be read as labels"):
        read_indices(file)


def test_an_image_without_a_label_map(tmp_path: Path) -> None:
    SEGMENTATION["label_maps"](tmp_path)
    (tmp_path / "train" / "masks" / "b.png").unlink()
    with pytest.raises(AnnotationError, match="masks: has no mask for 1 names: b"):
        open_annotations(tmp_path, "segment")
