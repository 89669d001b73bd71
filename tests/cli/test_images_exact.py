"""What is made of an image strip by strip is, value for value, what Pillow makes of all of it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from hostile_images import ORIENTATION
from transnext_models.classification.preprocess import Preprocess
from transnext_models.images import Picture, open_picture, picture, read_image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
METHODS = ("nearest", "bilinear", "bicubic", "lanczos")
MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "I;16", "La", "RGBa", "PA")


def noise(mode: str, width: int, height: int, seed: int) -> Image.Image:
    generator = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(generator.integers(0, 65536, (height, width)).astype(np.uint16))
    channels = generator.integers(0, 256, (height, width, 4), dtype=np.uint8)
    image = Image.fromarray(channels)
    if mode == "P":
        return image.convert("RGB").quantize(32)
    if mode == "PA":
        return image.convert("RGB").quantize(32).convert("PA")
    if mode in ("La", "RGBa"):
        return image.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    if mode in ("LA", "RGBA"):
        return image.convert(mode)
    return image.convert("RGB").convert(mode)


def whole_rgb(image: Image.Image, orientation: int) -> Image.Image:
    """The same by Pillow on the whole image, in the order of the steps that read_image states."""
    if image.mode == "I;16":
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    image = image.convert("RGB")
    image.getexif()[ORIENTATION] = orientation
    return ImageOps.exif_transpose(image)


@pytest.fixture(autouse=True, scope="module")
def _few_pixels_in_a_strip():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture, "STRIP_PIXELS", 100)
        yield


cases = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(MODES),
        "width": st.integers(1, 70),
        "height": st.integers(1, 70),
        "seed": st.integers(0, 9),
    }
)


@given(case=cases, orientation=st.integers(0, 9))
def test_whole_and_parts(case, orientation):
    image = noise(**case)
    expected = whole_rgb(image.copy(), orientation)
    seen = Picture(image, orientation)
    assert seen.size == expected.size
    assert np.array_equal(seen.rgb(), expected)
    right, bottom = seen.size
    box = (right // 3, bottom // 4, right - right // 5, bottom - bottom // 3)
    assert np.array_equal(seen.crop(box), expected.crop(box))


@given(
    case=cases,
    orientation=st.integers(1, 8),
    target=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    method=st.sampled_from(METHODS),
    boxed=st.booleans(),
)
def test_resized(case, orientation, target, method, boxed):
    """Whichever of rows and columns this version of Pillow resizes first."""
    image = noise(**case)
    expected = whole_rgb(image.copy(), orientation)
    width, height = expected.size
    box = (width * 0.21, height * 0.1, width * 0.93, height * 0.77) if boxed else None
    filter_ = Image.Resampling[method.upper()]
    resized = Picture(image, orientation).resize(target, filter_, box)
    assert np.array_equal(resized, expected.resize(target, filter_, box))


@given(case=cases, target=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_the_other_order_differs_by_rounding_alone(case, target):
    """Where the rows of a tall strip would be too many; here always. (With a filter that does not
    overshoot: what does is clipped in between.)"""
    image = noise(**case)
    expected = whole_rgb(image.copy(), 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture, "_MOST_BETWEEN_PIXELS", 0)
        resized = Picture(image).resize(target, Image.Resampling.BILINEAR)
    expected = expected.resize(target, Image.Resampling.BILINEAR)
    difference = np.asarray(resized).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 2


@given(case=cases, orientation=st.integers(1, 8), side=st.integers(32, 60), squash=st.booleans())
def test_preprocessed(case, orientation, side, squash):
    mode, pct = ("squash", 1.0) if squash else ("center", 0.875)
    preprocess = Preprocess(side, MEAN, STD, mode, pct)
    image = noise(**case)
    expected = preprocess(whole_rgb(image.copy(), orientation))
    assert torch.equal(preprocess(Picture(image, orientation)), expected)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_tiff(tmp_path, compression, orientation):
    """Pillow turns these itself as it decodes them; once is enough."""
    image = noise("RGB", 20, 11, 0)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(tmp_path / "x.tif", exif=exif, compression=compression)
    assert np.array_equal(read_image(tmp_path / "x.tif"), whole_rgb(image, orientation))


def test_orientation_said_in_xmp_after_the_pixels():
    from hostile_images import png, png_chunk

    data = png(20, 11)
    text = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x tiff:Orientation="6"/>')
    end = data.index(b"IEND") - 4
    assert read_image(data[:end] + text + data[end:]).size == (11, 20)


def test_a_picture_is_what_is_preprocessed(tmp_path):
    """From the file to the tensor, as a user's own code would do it with Pillow alone."""
    preprocess = Preprocess(48, MEAN, STD)
    image = noise("RGBA", 61, 50, 3)
    image.save(tmp_path / "x.png")
    with open_picture(tmp_path / "x.png", "x", working=preprocess.working_bytes) as seen:
        result = preprocess(seen)
    assert torch.equal(result, preprocess(whole_rgb(image, 1)))


def test_results_are_images_of_their_own():
    """They outlive what they were decoded from."""
    file = io.BytesIO()
    noise("RGB", 9, 7, 0).save(file, "PNG")
    image = read_image(file.getvalue())
    assert image.copy().tobytes() == noise("RGB", 9, 7, 0).tobytes()
    assert type(image) is Image.Image
