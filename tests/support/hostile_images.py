"""Image files that claim more than they hold, written by hand where Pillow would not."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

from PIL import Image

ORIENTATION = 0x0112
# Channels by PNG's colour type.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, chunks: bytes = b"") -> bytes:
    """A black PNG; `chunks` come after its header. A million pixels take about a thousand bytes."""
    row = bytes(1 + (width * depth * _CHANNELS[colour] + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    palette = png_chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + palette
        + chunks
        + png_chunk(b"IDAT", data)
        + png_chunk(b"IEND", b"")
    )


def png_texts(count: int, kind: bytes = b"zTXt") -> bytes:
    """Chunks of text that unpack to a million bytes each."""
    text = zlib.compress(bytes(1_000_000), 9)
    before = {b"zTXt": b"\0\0", b"iTXt": b"\0\1\0\0\0", b"iCCP": b"\0\0"}[kind]
    return b"".join(png_chunk(kind, b"key%d" % n + before + text) for n in range(count))


def png_animation(width: int, height: int, disposal: int) -> bytes:
    """An animated PNG whose first frame is disposed of by method `disposal`."""
    frame = struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 1, disposal, 0)
    chunks = png_chunk(b"acTL", struct.pack(">II", 2, 0)) + png_chunk(b"fcTL", frame)
    return png(width, height, colour=6, chunks=chunks)


def tiff(
    width: int,
    height: int,
    *,
    compression: int = 1,
    tile: tuple[int, int] | None = None,
    offsets: Sequence[int] = (),
    entries: int = 0,
    data: bytes = bytes(64),
) -> bytes:
    """A grey TIFF of one tile, of strips at `offsets`, or of one strip; `entries` more entries are
    all of the whole file."""
    fields: list[tuple[int, int, int, object]] = [
        *((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression)),
        *((262, 3, 1, 1), (277, 3, 1, 1)),
    ]
    if tile:
        fields += [(322, 4, 1, tile[0]), (323, 4, 1, tile[1])]
        fields += [(324, 4, 1, "data"), (325, 4, 1, len(data))]
    elif offsets:
        packed = struct.pack(f"<{len(offsets)}I", *offsets)
        lengths = struct.pack("<I", 1) * len(offsets)
        fields += [(273, 4, len(offsets), packed), (278, 4, 1, 1), (279, 4, len(offsets), lengths)]
    else:
        fields += [(273, 4, 1, "data"), (278, 4, 1, height), (279, 4, 1, len(data))]
    fields += [(40_000 + n, 7, len(data), "data") for n in range(entries)]
    tail_start = 8 + 2 + 12 * len(fields) + 4
    tail = b"".join(value for *_, value in fields if isinstance(value, bytes))
    directory, place = b"", tail_start
    for tag, kind, count, value in sorted(fields, key=lambda field: field[0]):
        if isinstance(value, bytes):
            value, place = place, place + len(value)
        elif value == "data":
            value = tail_start + len(tail)
        directory += struct.pack("<HHII", tag, kind, count, value)
    count = struct.pack("<H", len(fields))
    return b"II*\0" + struct.pack("<I", 8) + count + directory + bytes(4) + tail + data


def exif(entries: int, length: int) -> bytes:
    """EXIF data with `entries` entries, each of the same `length` bytes."""
    start = 8 + 2 + 12 * entries + 4
    directory = b"".join(struct.pack("<HHII", 1000 + n, 7, length, start) for n in range(entries))
    count = struct.pack("<H", entries)
    return b"II*\0" + struct.pack("<I", 8) + count + directory + bytes(4) + bytes(length)


def jpeg_with_exif(data: bytes) -> bytes:
    """A small JPEG with EXIF data of any length, in as many segments as it needs."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG")
    segments = b""
    for start in range(0, len(data), 65_000):
        segment = b"Exif\0\0" + data[start : start + 65_000]
        segments += b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment
    image = file.getvalue()
    return image[:2] + segments + image[2:]


def gif(width: int, height: int, *, extensions: bytes = b"") -> bytes:
    """A GIF whose first frame is of this size, in a canvas of one pixel."""
    file = io.BytesIO()
    Image.new("P", (1, 1)).save(file, "GIF")
    data = file.getvalue()
    frame = data.index(b",")
    size = struct.pack("<HH", width, height)
    return data[:frame] + extensions + data[frame : frame + 5] + size + data[frame + 9 :]
