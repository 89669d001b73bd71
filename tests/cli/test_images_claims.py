"""What a file says of itself is checked against its bytes before anything is decoded."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

import hostile_images as hostile
from cli.image_claims import PREPROCESS, reason
from transnext_models.images import (
    DECODING_BYTES,
    ImageError,
    memory,
    open_picture,
    read_image,
)
from transnext_models.images.claims import ClaimError, read_claim


def claim(data: bytes):
    return read_claim(io.BytesIO(data), len(data))


# -- claims ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (hostile.png(64, 64, chunks=hostile.png_texts(5)), "its texts unpack to more than 4 MiB"),
        (hostile.png(64, 64, chunks=hostile.png_texts(5, b"iTXt")), "its texts unpack to more"),
        (hostile.png(9, 9, chunks=hostile.png_chunk(b"prVt", b"") * 100_001), "100,000 chunks"),
        (hostile.tiff(64, 64, offsets=[8] * 100_001), "100,000 strips or tiles"),
        (hostile.tiff(64, 64, entries=900, data=bytes(60_000)), "its directory unpacks to many"),
        (hostile.jpeg_with_exif(hostile.exif(900, 60_000)), "its directory unpacks to many"),
        (hostile.gif(1, 1, extensions=b"\x21\xfe\x01a\0" * 100_001), "100,000 extensions"),
    ],
)
def test_what_no_honest_file_says_is_refused(data, message):
    assert message in reason(data)
    assert reason(data).startswith("cannot be trusted: ")


def test_honest_texts_and_directories_are_read(tmp_path):
    """Many texts, packed and not, a colour profile, and EXIF data larger than the picture."""
    texts = [b"key\0\0" + zlib.compress(b"a text " * 100) for _ in range(200)]
    chunks = b"".join(hostile.png_chunk(b"zTXt", text) for text in texts)
    plain = b"key\0\0\0en\0key\0" + b"plain " * 20_000
    chunks += hostile.png_chunk(b"iTXt", plain) * 20 + hostile.png_texts(1, b"iCCP")
    assert read_image(hostile.png(9, 9, chunks=chunks)).size == (9, 9)
    assert read_image(hostile.jpeg_with_exif(hostile.exif(40, 1_000))).size == (64, 64)
    assert read_image(hostile.tiff(64, 64, entries=3, data=bytes(5_000))).size == (64, 64)


def test_exif_bomb_of_a_png_is_no_orientation():
    """The picture is all right: it is read, as with EXIF data that are damaged."""
    chunk = hostile.png_chunk(b"eXIf", hostile.exif(900, 60_000))
    assert read_image(hostile.png(30, 20, chunks=chunk)).size == (30, 20)


def jpeg(**options) -> bytes:
    file = io.BytesIO()
    Image.new(options.pop("mode", "RGB"), (640, 480)).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("options", "bytes_per_pixel"),
    [
        ({}, 0),
        ({"progressive": True, "subsampling": 0}, 6),
        ({"progressive": True, "subsampling": 2}, 3),
        ({"progressive": True, "mode": "L"}, 2),
        ({"progressive": True, "mode": "CMYK"}, 8),
    ],
)
def test_coefficients_that_a_jpeg_keeps(options, bytes_per_pixel):
    assert claim(jpeg(**options)).extra_bytes == 640 * 480 * bytes_per_pixel


def test_scans_of_one_component_keep_coefficients():
    """A sequential file whose first scan does not hold everything is no better than others."""
    data = bytearray(jpeg(subsampling=0))
    scan = data.index(b"\xff\xda")
    assert data[scan + 4] == 3
    data[scan + 4] = 1
    assert claim(bytes(data)).extra_bytes == 640 * 480 * 6


def test_claims_cannot_be_hidden_from_us_alone():
    """Decoders pass over odd bytes in their own ways; what they see is seen here as well."""
    bomb = hostile.exif(900, 60_000)
    data = hostile.jpeg_with_exif(bomb)
    for hiding in (b"\xff\xf0\xff\xff", b"\xff\xd9", b"\xff\xd9junk\xff\xff", b"\xff\xc8\x40\x00"):
        with pytest.raises(ClaimError, match="its directory"):
            claim(data[:2] + hiding + data[2:])
    # A second header counts before the pixels, as for Pillow, and not behind them.
    large = hostile.png(3_000, 2_000, colour=6)
    small = hostile.png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    for data, size in (
        (large[:-12] + small + large[-12:], (3_000, 2_000)),
        (large[:33] + small + large[33:], (1, 1)),
    ):
        assert claim(data).size == size
        assert read_image(data).size == size
    # Bytes before the first frame of a GIF.
    extension = b"\x21\xf9\x04\x09\0\0\0\0"
    assert claim(hostile.gif(900, 800, extensions=b"??" + extension)).bytes_per_pixel == 5
    # Tiles said twice, and with a magic number that only Pillow takes.
    tiles = hostile.tiff(64, 64, compression=8, tile=(4_000, 4_000))
    once = struct.pack("<HHII", 277, 3, 1, 1)
    twice = tiles.replace(once, struct.pack("<HHII", 322, 4, 1, 40_000))
    assert claim(tiles).extra_bytes == 4_000 * 4_000
    assert claim(b"II\0*" + tiles[4:]).extra_bytes == 4_000 * 4_000
    assert claim(twice).extra_bytes == 40_000 * 4_000
    # EXIF data anywhere in the boxes of an AVIF.
    with pytest.raises(ClaimError, match="its directory"):
        claim(b"\0\0\0\x20ftypavif" + bytes(100) + bomb)


def test_tiles_of_a_big_tiff():
    entries = [(256, 4, 64), (257, 4, 64), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)]
    entries += [(322, 4, 30_000), (323, 4, 20_000), (324, 16, 16), (325, 16, 8)]
    for order, magic in (("<", b"II+\0"), (">", b"MM\0+")):
        directory = struct.pack(order + "Q", len(entries))
        for tag, kind, value in entries:
            packed = struct.pack(order + {3: "H", 4: "I", 16: "Q"}[kind], value)
            directory += struct.pack(order + "HHQ", tag, kind, 1) + packed.ljust(8, b"\0")
        header = magic + struct.pack(order + "HHQ", 8, 0, 16)
        assert claim(header + directory + bytes(8)).extra_bytes == 600_000_000


@pytest.mark.parametrize("make", [hostile.png, hostile.tiff, hostile.gif])
def test_headers_that_are_cut_short_claim_nothing(make):
    data = make(9, 9)
    for length in range(len(data)):
        assert claim(data[:length]).extra_bytes == 0


def test_random_headers_are_one_kind_of_error():
    """Fuzzed files are read or refused, and leave memory and warnings as they were."""
    seeds = [
        hostile.png(40, 30, colour=6, chunks=hostile.png_texts(1)),
        hostile.tiff(40, 30, compression=8, tile=(48, 32), data=zlib.compress(bytes(1536))),
        hostile.gif(40, 30),
        hostile.jpeg_with_exif(hostile.exif(4, 40)),
        jpeg(progressive=True),
    ]
    for options in ({"format": "WEBP"}, {"format": "BMP"}, {"format": "PPM"}):
        file = io.BytesIO()
        Image.effect_noise((40, 30), 90).convert("RGB").save(file, **options)
        seeds.append(file.getvalue())
    generator = np.random.default_rng(0)
    filters = list(warnings.filters)
    read = 0
    for _ in range(1_500):
        data = bytearray(seeds[generator.integers(len(seeds))])
        for _ in range(generator.integers(1, 6)):
            place = generator.integers(min(len(data), generator.choice([30, 200, 5_000])) - 4)
            value = generator.choice([0, 1, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 30_000])
            layout = generator.choice(["<I", ">I"])
            data[place : place + 4] = struct.pack(layout, value)
        try:
            with open_picture(bytes(data), "x", working=PREPROCESS.working_bytes) as picture:
                assert PREPROCESS(picture).shape == (3, 64, 64)
            read += 1
        except ImageError:
            pass
    assert 0 < read < 1_500
    assert warnings.filters == filters
    with memory.DECODING.reserve(DECODING_BYTES):
        pass
