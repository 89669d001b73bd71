"""Decode a pickle's instructions, without making more of an argument than it is worth.

`pickletools.genops` decodes them too, but whatever is there: a text of a hundred megabytes, or an
integer of a million digits. Here an argument that no state dict has is skipped and stands as
`Omitted`, and a length is compared with the bytes that are left before anything is read.
"""

from __future__ import annotations

import codecs
import os
import pickletools
import struct
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from .limits import LONGEST_TEXT
from .pickle_values import Omitted, PickleDataError

_LONGEST_INTEGER = 1024  # bytes, or decimal digits


class ByteReader(Protocol):
    """What is needed of a file."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, all for -1."""

    def readline(self, size: int = -1, /) -> bytes:
        """Return the rest of a line, its end included."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to an offset, and return it."""

    def tell(self) -> int:
        """Return the offset of what is read next."""


def instructions(file: ByteReader) -> Iterator[tuple[str, Any]]:
    """Yield the name and the argument of each instruction, up to and including STOP.

    Parameters
    ----------
    file : ByteReader
        Positioned at the pickle's first byte; after STOP it is just behind the last.

    Raises
    ------
    PickleDataError
        If the file ends early, or has what is no instruction.
    """
    decoder, read = _Decoder(file), file.read
    while True:
        code = read(1)
        if not code:
            raise PickleDataError("the pickle is exhausted before its STOP instruction")
        known = _INSTRUCTIONS.get(code)
        if known is None:
            raise PickleDataError(f"not a well-formed pickle ({code!r} is no instruction)")
        name, decode = known
        yield name, None if decode is None else decode(decoder)
        if name == "STOP":
            return


class _Decoder:
    def __init__(self, file: ByteReader) -> None:
        self._file = file
        start = file.tell()
        self._end = file.seek(0, os.SEEK_END)
        file.seek(start)

    def take(self, length: int) -> bytes:
        data = self._file.read(length)
        if len(data) != length:
            raise PickleDataError("not a well-formed pickle (it ends inside an instruction)")
        return data

    def unsigned(self, length: int) -> int:
        return int.from_bytes(self.take(length), "little")

    def signed(self, length: int) -> int:
        return int.from_bytes(self.take(length), "little", signed=True)

    def line(self) -> bytes:
        line = self._file.readline(LONGEST_TEXT)
        if not line.endswith(b"\n"):
            raise PickleDataError("not a well-formed pickle (a line is cut short or very long)")
        return line[:-1]

    def counted(self, width: int, longest: int, kind: str) -> bytes | Omitted:
        """Return the bytes behind a length of `width` bytes."""
        length = self.unsigned(width)
        if length <= longest:
            return self.take(length)
        if length > self._end - self._file.tell():
            raise PickleDataError("not a well-formed pickle (it ends inside an instruction)")
        self._file.seek(length, os.SEEK_CUR)
        return Omitted(kind, length)

    def integer_line(self) -> int:
        line = self.line()
        if len(line) > _LONGEST_INTEGER:
            raise PickleDataError(f"the pickle has a number of {len(line)} digits")
        return int(line)


def _fixed(length: int, signed: bool = False) -> Callable[[_Decoder], int]:
    return lambda d: d.signed(length) if signed else d.unsigned(length)


def _text(width: int, encoding: str = "utf-8") -> Callable[[_Decoder], object]:
    # Names of files may hold halves of surrogate pairs, which pickle writes as they are.
    errors = "surrogatepass" if encoding == "utf-8" else "strict"

    def decode(d: _Decoder) -> object:
        data = d.counted(width, LONGEST_TEXT, "text")
        return data if isinstance(data, Omitted) else data.decode(encoding, errors)

    return decode


def _bytes(width: int, kind: type = bytes) -> Callable[[_Decoder], object]:
    def decode(d: _Decoder) -> object:
        data = d.counted(width, LONGEST_TEXT, "bytes")
        return data if isinstance(data, Omitted) else kind(data)

    return decode


def _long(width: int) -> Callable[[_Decoder], object]:
    def decode(d: _Decoder) -> object:
        data = d.counted(width, _LONGEST_INTEGER, "an integer")
        return data if isinstance(data, Omitted) else int.from_bytes(data, "little", signed=True)

    return decode


def _int_or_bool(d: _Decoder) -> int:
    line = d.line()
    if line in (b"00", b"01"):
        return line == b"01"
    if len(line) > _LONGEST_INTEGER:
        raise PickleDataError(f"the pickle has a number of {len(line)} digits")
    return int(line)


def _long_line(d: _Decoder) -> object:
    line = d.line().removesuffix(b"L")
    return int(line) if len(line) <= _LONGEST_INTEGER else Omitted("an integer", len(line))


def _quoted_line(d: _Decoder) -> str:
    line = d.line()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise PickleDataError("the pickle has a text without quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")


def _module_and_name(d: _Decoder) -> tuple[str, str]:
    return d.line().decode("utf-8"), d.line().decode("utf-8")


_ARGUMENTS: dict[str, Callable[[_Decoder], Any]] = {
    "INT": _int_or_bool,
    "BININT": _fixed(4, signed=True),
    "BININT1": _fixed(1),
    "BININT2": _fixed(2),
    "LONG": _long_line,
    "LONG1": _long(1),
    "LONG4": _long(4),
    "FLOAT": lambda d: float(d.line()),
    "BINFLOAT": lambda d: struct.unpack(">d", d.take(8))[0],
    "STRING": _quoted_line,
    "BINSTRING": _text(4, "latin-1"),
    "SHORT_BINSTRING": _text(1, "latin-1"),
    "UNICODE": lambda d: d.line().decode("raw-unicode-escape"),
    "BINUNICODE": _text(4),
    "SHORT_BINUNICODE": _text(1),
    "BINUNICODE8": _text(8),
    "BINBYTES": _bytes(4),
    "SHORT_BINBYTES": _bytes(1),
    "BINBYTES8": _bytes(8),
    "BYTEARRAY8": _bytes(8, bytearray),
    "GET": _Decoder.integer_line,
    "BINGET": _fixed(1),
    "LONG_BINGET": _fixed(4),
    "PUT": _Decoder.integer_line,
    "BINPUT": _fixed(1),
    "LONG_BINPUT": _fixed(4),
    "GLOBAL": _module_and_name,
    "INST": _module_and_name,
    "PERSID": lambda d: d.line().decode("latin-1"),
    "PROTO": _fixed(1),
    "FRAME": _fixed(8),
    "EXT1": _fixed(1),
    "EXT2": _fixed(2),
    "EXT4": _fixed(4),
}
_INSTRUCTIONS: dict[bytes, tuple[str, Callable[[_Decoder], Any] | None]] = {
    known.code.encode("latin-1"): (known.name, _ARGUMENTS.get(known.name))
    for known in pickletools.opcodes
}
INSTRUCTION_NAMES = tuple(name for name, _ in _INSTRUCTIONS.values())
