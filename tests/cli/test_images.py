"""Finding and decoding image files of every kind; a broken one is one clear error."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from transnext_models.images import SUFFIXES, ImageError, find_images, read_image


def pixels(path: Path) -> np.ndarray:
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def gradient(height: int = 16, width: int = 24) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack(
        [columns * 255 // (width - 1), rows * 255 // (height - 1), (rows + columns) * 5], axis=-1
    ).astype(np.uint8)


@pytest.fixture
def rgb() -> Image.Image:
    return Image.fromarray(gradient())


# -- decoding -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        ("png", {}, 0),
        ("webp", {"lossless": True}, 0),
        ("bmp", {}, 0),
        ("ppm", {}, 0),
        ("tiff", {}, 0),
        ("jpg", {"quality": 95, "subsampling": 0}, 20),
        ("webp", {"quality": 95}, 30),
    ],
)
def test_formats(tmp_path, rgb, suffix, options, tolerance):
    path = tmp_path / f"x.{suffix}"
    rgb.save(path, **options)
    assert np.abs(pixels(path) - gradient()).max() <= tolerance


def test_format_is_detected_from_the_bytes(tmp_path, rgb):
    rgb.save(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", tmp_path / "x.dat")
    assert np.array_equal(pixels(tmp_path / "x.dat"), gradient())


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_grey(tmp_path, suffix):
    Image.new("L", (9, 7), 200).save(tmp_path / f"x.{suffix}")
    assert (pixels(tmp_path / f"x.{suffix}") == 200).all()


def test_black_and_white(tmp_path):
    Image.new("1", (8, 8), 1).save(tmp_path / "x.png")
    assert (pixels(tmp_path / "x.png") == 255).all()


def test_transparency_is_put_on_white(tmp_path):
    colours = np.zeros((1, 3, 4), np.uint8)
    colours[0] = [(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 128)]
    Image.fromarray(colours).save(tmp_path / "x.png")
    assert pixels(tmp_path / "x.png")[0].tolist() == [[255, 0, 0], [255, 255, 255], [127, 127, 127]]


def test_grey_with_transparency(tmp_path):
    values = np.array([[(0, 255), (0, 0), (100, 255)]], np.uint8)
    Image.fromarray(values).save(tmp_path / "x.png")
    assert pixels(tmp_path / "x.png")[0, :, 0].tolist() == [0, 255, 100]


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_one_transparent_colour(tmp_path, mode):
    image = Image.new("RGB", (2, 1), (10, 10, 10))
    image.putpixel((1, 0), (200, 200, 200))
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    first = image.getpixel((0, 0))
    image.save(tmp_path / "x.png", transparency=first)
    assert pixels(tmp_path / "x.png")[0].tolist() == [[255, 255, 255], [200, 200, 200]]


def test_palette_with_alpha_of_each_colour(tmp_path):
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 255, 0))
    image.quantize(4).save(tmp_path / "x.png")
    left, right = pixels(tmp_path / "x.png")[0].tolist()
    assert left == [255, 0, 0]
    assert right == [255, 255, 255]


def test_transparent_webp_and_gif(tmp_path):
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.save(tmp_path / "x.webp", lossless=True)
    image.save(tmp_path / "x.gif")
    assert (pixels(tmp_path / "x.webp") == 255).all()
    assert (pixels(tmp_path / "x.gif") == 255).all()


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_grey(tmp_path, suffix):
    """65535 is white; Pillow's own conversion would clip everything above 255, or lose a bit."""
    values = np.array([[0, 128, 129, 257, 32767, 32768, 65406, 65407, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"x.{suffix}")
    expected = np.round(values / 257).astype(int)
    result = pixels(tmp_path / f"x.{suffix}")
    assert np.array_equal(result[..., 0], expected)
    assert np.array_equal(result[..., 1], expected)


def test_sixteen_bit_colour(tmp_path):
    """Pillow cannot write it, so the file is made by hand."""
    write_png(tmp_path / "x.png", 2, 1, 16, 2, struct.pack(">6H", 0, 32768, 65535, 257, 514, 65535))
    result = pixels(tmp_path / "x.png")
    assert np.abs(result[0] - [[0, 128, 255], [1, 2, 255]]).max() <= 1


def write_png(path: Path, width: int, height: int, depth: int, colour: int, row: bytes) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress((b"\0" + row) * height)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk(tmp_path, suffix):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / f"x.{suffix}")
    assert np.abs(pixels(tmp_path / f"x.{suffix}") - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_orientation(tmp_path, orientation, suffix):
    """A picture with a red top-left corner, stored turned or mirrored, is turned back."""
    upright = np.full((16, 32, 3), 255, np.uint8)
    upright[:8, :8] = (255, 0, 0)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, 3),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    result = pixels(path)
    assert result.shape == (16, 32, 3)
    assert np.abs(result - upright).mean() < 8


def test_damaged_exif_is_no_orientation(tmp_path, rgb):
    rgb.save(tmp_path / "x.jpg", exif=b"Exif\0\0MM\0*\0\0\xff\xff garbage", quality=95)
    assert np.abs(pixels(tmp_path / "x.jpg") - gradient()).max() <= 60


def test_colour_profile_is_left_alone(tmp_path, rgb):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rgb.save(tmp_path / "x.png", icc_profile=profile)
    assert np.array_equal(pixels(tmp_path / "x.png"), gradient())


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for suffix in ("gif", "webp", "png"):
        path = tmp_path / f"x.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
        assert np.abs(pixels(path) - [255, 0, 0]).max() <= 2


# -- files that cannot be decoded -----------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tiff", "bmp"])
def test_cut_short(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    for length in (4, 20, len(data) // 2):
        path.write_bytes(data[:length])
        with pytest.raises(ImageError) as error:
            read_image(path)
        assert error.value.path == str(path)
        assert str(error.value) == f"{path}: {error.value.reason}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"hello", "not an image"),
        (b"<html>404</html>", "not an image"),
        (bytes(1000), "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "cannot be decoded|not an image"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "cannot be decoded|not an image"),
    ],
)
def test_no_image(tmp_path, content, reason):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=reason):
        read_image(path)


def test_damaged_png_data(tmp_path, rgb):
    rgb.save(tmp_path / "x.png")
    data = bytearray((tmp_path / "x.png").read_bytes())
    start = data.index(b"IDAT")
    data[start + 10 : start + 30] = bytes(20)
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_image(tmp_path / "x.png")


def test_decompression_bomb(tmp_path):
    """A few bytes that claim an image of 10 thousand million pixels."""
    write_png(tmp_path / "x.png", 100_000, 1, 8, 2, b"")
    data = bytearray((tmp_path / "x.png").read_bytes())
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    data[16:29] = header
    data[29:33] = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(ImageError, match="more than 178 million pixels"):
        read_image(tmp_path / "x.png")


@pytest.mark.filterwarnings("error")
def test_large_images_make_no_noise(tmp_path, monkeypatch, rgb):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 24 - 1)  # warned of, not refused
    rgb.save(tmp_path / "x.png")
    assert np.array_equal(pixels(tmp_path / "x.png"), gradient())


def test_no_file_and_folder(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_known_white(tmp_path, mode):
    Image.new(mode, (4, 4), 70_000).save(tmp_path / "x.tiff")
    with pytest.raises(ImageError, match="32-bit"):
        read_image(tmp_path / "x.tiff")


# -- finding --------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in (
        "b.png",
        "a.jpg",
        "notes.txt",
        ".hidden.png",
        "sub/c.WEBP",
        "sub/deep/d.jpeg",
        ".git/e.png",
        "empty/readme.md",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*names: str | Path) -> list[str]:
    result = find_images(names)
    assert result.problems == []
    return [path.as_posix() for path in result.paths]


def test_folders_are_searched_in_order(tree):
    assert found(".") == ["a.jpg", "b.png", "sub/c.WEBP", "sub/deep/d.jpeg"]
    assert found("sub") == ["sub/c.WEBP", "sub/deep/d.jpeg"]
    assert found(tree / "sub") == [f"{tree}/sub/c.WEBP", f"{tree}/sub/deep/d.jpeg"]


def test_files_are_taken_as_they_are(tree):
    assert found("notes.txt", "b.png", "a.jpg", ".hidden.png") == [
        "notes.txt",
        "b.png",
        "a.jpg",
        ".hidden.png",
    ]


def test_patterns(tree):
    assert found("*.png") == ["b.png"]
    assert found("*") == ["a.jpg", "b.png", "sub/c.WEBP", "sub/deep/d.jpeg"]
    assert found("**/*.jp*g") == ["a.jpg", "sub/deep/d.jpeg"]
    assert found("*.txt") == ["notes.txt"]
    assert found("[ab].*") == ["a.jpg", "b.png"]


def test_nothing_twice(tree):
    assert found("a.jpg", ".", "*.jpg") == ["a.jpg", "b.png", "sub/c.WEBP", "sub/deep/d.jpeg"]


def test_a_name_with_wildcards_that_exists(tree):
    (tree / "odd[1].png").write_bytes(b"x")
    assert found("odd[1].png") == ["odd[1].png"]


def test_names_that_give_nothing(tree):
    result = find_images(["missing.png", "a.jpg", "empty", "*.bmp", ""])
    assert result.paths == [Path("a.jpg")]
    messages = [str(problem) for problem in result.problems]
    assert messages[0] == "missing.png: no such file or folder"
    assert messages[1].startswith("empty: a folder without images (jpg, jpeg, png, webp")
    assert messages[2] == "*.bmp: no image matches this pattern"
    assert messages[3] == ": an empty name"
    assert len(messages) == 4


def test_home_folder(tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree))
    assert found("~/sub") == [f"{tree}/sub/c.WEBP", f"{tree}/sub/deep/d.jpeg"]


def test_suffixes_are_those_of_decoded_formats(tmp_path, rgb):
    for suffix in SUFFIXES:
        path = tmp_path / f"x{suffix}"
        (rgb.convert("L") if suffix == ".pgm" else rgb).save(path)
        assert pixels(path).shape == (16, 24, 3)
