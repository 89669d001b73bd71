"""Archives that hold what no data set should, or lie about it, and what is said of each."""

from __future__ import annotations

import struct
import tarfile

import pytest

__all__ = ["END", "FILE", "HOSTILE", "header", "hostile", "sealed"]


def header(name: str = "a.jpg", kind: bytes = tarfile.REGTYPE, size: int = 0) -> bytearray:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, max(size, 0)
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT if size < 8**11 else tarfile.GNU_FORMAT))
    if size < 0:  # as numbers that do not fit into octal digits are written
        block[124:136] = b"\xff" + struct.pack(">q", size).rjust(11, b"\xff")
    return sealed(block)


def sealed(block: bytearray) -> bytearray:
    """Make a header's checksum right."""
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return block


def extended(kind: bytes = tarfile.XHDTYPE, **attributes: str) -> bytes:
    records = b""
    for keyword, value in attributes.items():
        text = f" {keyword.replace('__', '.')}={value}\n".encode()
        length = len(text) + 2 if len(text) < 90 else len(text) + 3
        records += f"{length}".encode() + text
    padded = records + bytes(-len(records) % 512)
    return bytes(header("x", kind, len(records))) + padded


END = bytes(1024)
FILE = bytes(header(size=5)) + b"hello".ljust(512, b"\0")

HOSTILE: dict[str, tuple[bytes, str]] = {
    "an absolute name": (bytes(header("/etc/passwd.jpg")) + END, "has a name that leads out of it"),
    "a name upwards": (bytes(header("a/../../b.jpg")) + END, "has a name that leads out of it"),
    "an absolute long name": (
        extended(path="/etc/passwd.jpg") + FILE + END,
        "has a name that leads out of it",
    ),
    "a zero in a name": (extended(path="a\0b.jpg") + FILE + END, "has a name that leads out of it"),
    "a symbolic link": (bytes(header(kind=tarfile.SYMTYPE)) + END, "a.jpg is a symbolic link"),
    "a hard link": (bytes(header(kind=tarfile.LNKTYPE)) + END, "a.jpg is a hard link"),
    "a device": (bytes(header(kind=tarfile.CHRTYPE)) + END, "a.jpg is a device"),
    "a pipe": (bytes(header(kind=tarfile.FIFOTYPE)) + END, "a.jpg is a pipe"),
    "a sparse file": (bytes(header(kind=tarfile.GNUTYPE_SPARSE)) + END, "a.jpg is a sparse file"),
    "a sparse file, extended": (
        extended(GNU__sparse__size="9") + FILE + END,
        "has a sparse file, needs regular files",
    ),
    "an unknown type": (bytes(header(kind=b"Z")) + END, "a.jpg is of type b'Z'"),
    "a size beyond the end": (
        bytes(header(size=10**6)) + END,
        "a.jpg has 1,000,000 bytes, and 1,0",
    ),
    "a huge size": (
        bytes(header(size=2**62)) + END,
        "has 4,611,686,018,427,387,904 bytes, and 1,0",
    ),
    "a huge size, extended": (
        extended(size="9" * 18) + FILE + END,
        "999 bytes, and 1,536 are left",
    ),
    "a size too long, extended": (
        extended(size="9" * 40) + FILE + END,
        "has a size that is no num",
    ),
    "a negative size": (FILE + bytes(header(size=-512)) + END, "a.jpg has the size -512"),
    "a negative size, extended": (extended(size="-1") + FILE + END, "has a size that is no number"),
    "a long name of negative size": (
        bytes(header(kind=tarfile.GNUTYPE_LONGNAME, size=-512)) + END,
        "has a header of -512 bytes",
    ),
    "a long name of 2 GiB": (
        bytes(header(kind=tarfile.GNUTYPE_LONGNAME, size=1 << 31)) + END,
        "has a header of 2,147,483,648 bytes",
    ),
    "attributes of 2 GiB": (
        bytes(header(kind=tarfile.XHDTYPE, size=1 << 31)) + END,
        "has a header of 2,147,483,648 bytes",
    ),
    "attributes that are none": (
        bytes(header(kind=tarfile.XHDTYPE, size=12)) + b"999 path=ab\n".ljust(512, b"\0") + END,
        "is damaged: it has an extended header that is none",
    ),
    "one name for all": (
        extended(tarfile.XGLTYPE, path="a.jpg") + FILE + END,
        "gives all of its members one name or size",
    ),
    "an end within a header": (FILE + bytes(header(size=5))[:100], "is truncated"),
    "an end within a member": (FILE + bytes(header(size=600)) + bytes(100), "is truncated"),
    "an end within the filling": (bytes(header(size=5)) + b"hello", "it ends within its member a"),
    "no end": (FILE, "is truncated: it has no end, after 1,024 bytes"),
    "a damaged header": (FILE + b"\1" + FILE[1:] + END, r"is damaged at byte 1,024 \(bad checksum"),
    "nothing": (b"", "is empty"),
    "text": (b"no archive" * 200, "is no tar archive"),
    "a few bytes": (b"no archive", "is no tar archive"),
    "gzip": (b"\x1f\x8b" + bytes(2000), "is compressed with gzip: decompress it"),
    "xz": (b"\xfd7zXZ\0" + bytes(2000), "is compressed with xz: decompress it"),
}

hostile = pytest.mark.parametrize(
    ("content", "fault"), [pytest.param(*case, id=name) for name, case in HOSTILE.items()]
)
