"""Resizing and colours: as OpenCV's, and as the golden data of the published pipelines."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dense_data.opencv_results import FILE, by_us, differences
from dense_data.plain_pipelines import bilinear
from golden_data import golden_directories
from transnext_models.dense.opencv_resize import (
    fitting_size,
    resize_bilinear,
    resize_nearest,
)
from transnext_models.dense_data.opencv_colours import hsv_to_rgb, rgb_to_hsv


def golden(name: str) -> np.lib.npyio.NpzFile:
    files = [folder / "dense" / name for folder in golden_directories()]
    found = [file for file in files if file.is_file()]
    assert found, f"{name} is in none of {files}"
    return np.load(found[0])


def test_the_table_of_sizes() -> None:
    table = golden("preprocess.npz")["rescale_table"].tolist()
    assert len(table) == 30
    for height, width, long, short, *expected in table:
        assert fitting_size((height, width), (long, short)) == tuple(expected)
        assert fitting_size((height, width), (short, long)) == tuple(expected)


def test_the_photograph_resized_for_every_method() -> None:
    expected, photo = golden("preprocess.npz"), golden("photo.npz")["rgb"]
    for number, name in enumerate(json.loads(str(expected["names_json"]))):
        size = fitting_size(photo.shape[:2], expected["scales"][number].tolist())
        assert size == tuple(expected["shapes"][number]), name
        blue_green_red = resize_bilinear(photo, size)[..., ::-1]
        picks = blue_green_red.reshape(-1, 3)[:: size[0] * size[1] // 50][:50]
        np.testing.assert_array_equal(picks, expected["picks_bgr"][number], name)
        assert int(blue_green_red.sum()) == expected["sums_bgr"][number], name


def test_opencv_s_stored_results() -> None:
    with np.load(FILE) as stored:
        assert set(differences(by_us(), dict(stored)).values()) == {0}


def test_opencv_itself_where_it_is_installed() -> None:
    pytest.importorskip("cv2")
    from dense_data.opencv_results import by_opencv

    assert differences(by_us(), by_opencv())["bilinear"] == 0


@settings(max_examples=40)
@given(*[st.integers(1, 40)] * 4, st.integers(0, 2**32 - 1))
def test_within_a_grey_value_of_exact_fractions(
    height: int, width: int, new_height: int, new_width: int, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    size = (new_height, new_width)
    far = resize_bilinear(image, size).astype(int) - bilinear(image, size)
    assert np.abs(far).max() <= 1


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_the_nearest_pixel_of_exact_fractions(source: int, target: int) -> None:
    picked = resize_nearest(np.arange(source)[:, None], (target, 1))[:, 0]
    exact = np.arange(target) * source // target
    # At a whole position the reciprocal may round down to the pixel before, as OpenCV's does.
    assert set(exact - picked) <= {0, 1}
    whole = np.arange(target) * source % target == 0
    np.testing.assert_array_equal(picked[~whole], exact[~whole])


def test_a_resize_to_its_own_size_is_a_copy() -> None:
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    result = resize_bilinear(image, (4, 5))
    np.testing.assert_array_equal(result, image)
    assert not np.shares_memory(result, image)


def test_primary_colours() -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128]]], np.uint8)
    hsv = rgb_to_hsv(colours)
    assert hsv[0].tolist() == [[0, 255, 255], [60, 255, 255], [120, 255, 255], [0, 0, 128]]
    np.testing.assert_array_equal(hsv_to_rgb(hsv), colours)
