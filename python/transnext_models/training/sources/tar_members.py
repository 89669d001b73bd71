"""The regular files of a tar archive, from its headers alone, whoever made the archive.

`tarfile` opens archives too, but ends at a damaged header as at the archive's end, reads headers of
any length to memory, and keeps an object per member. Here headers are taken one by one, with
`tarfile` for what is in one of them, and whatever does not belong in a data set is an error: names
that lead out of it, links, sizes that are negative or beyond the end, an archive that has no end.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from typing import NamedTuple, Protocol

__all__ = [
    "ArchiveError",
    "Bytes",
    "Member",
    "Readable",
    "Region",
    "Stream",
    "members",
    "safe_name",
]

_BLOCK = 512
_LARGEST_HEADER = 1 << 20  # of a long name or of extended attributes
_CHUNK = 1 << 20
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


class ArchiveError(ValueError):
    """An archive is damaged, or holds what no data set should; the message names it."""

    def __init__(self, archive: str, fault: str) -> None:
        super().__init__(archive, fault)  # so that it can be pickled

    def __str__(self) -> str:
        return ": ".join(self.args)


class Member(NamedTuple):
    """A regular file in an archive: its name, and which bytes it is.

    `offset` counts from the start of the file that is read, also where the archive lies in another.
    """

    name: str
    offset: int
    size: int


class Bytes(Protocol):
    """What an archive is read from, forwards."""

    position: int

    def read(self, count: int) -> bytes:
        """Return the next bytes, fewer only at the end."""

    def skip(self, count: int) -> bool:
        """Pass over bytes; False where the end comes before."""


class Readable(Protocol):
    """A file of which nothing is asked but to be read forwards."""

    def read(self, count: int, /) -> bytes:
        """Return up to `count` of the next bytes; none at the end only."""


class Region:
    """Bytes `start` to `stop` of an open file, read without moving its position."""

    def __init__(self, descriptor: int, start: int, stop: int) -> None:
        self.position = start
        self.stop = stop
        self.descriptor = descriptor

    def read(self, count: int) -> bytes:
        """Return the next bytes, fewer only at the end."""
        content = os.pread(self.descriptor, min(count, self.stop - self.position), self.position)
        self.position += len(content)
        return content

    def skip(self, count: int) -> bool:
        """Pass over bytes; False where the end comes before."""
        self.position += count
        return self.position <= self.stop


class Stream:
    """Bytes of a pipe or a connection."""

    def __init__(self, file: Readable) -> None:
        self.position = 0
        self._file = file

    def read(self, count: int) -> bytes:
        """Return the next bytes, fewer only at the end."""
        parts: list[bytes] = []
        left = count
        while left > 0 and (part := self._file.read(left)):  # a pipe gives what it has
            parts.append(part)
            left -= len(part)
        self.position += count - left
        return b"".join(parts)

    def skip(self, count: int) -> bool:
        """Pass over bytes; False where the end comes before."""
        while count > 0:
            passed = len(self.read(min(count, _CHUNK)))
            if passed == 0:
                return False
            count -= passed
        return True


def members(source: Bytes, archive: str) -> Iterator[Member]:
    """Yield the regular files of an archive; folders are passed over.

    Parameters
    ----------
    source : Bytes
        At the start of the archive. Who takes a member may read from it up to the member's end.
    archive : str
        Its name, for errors.

    Raises
    ------
    ArchiveError
        See above.
    """
    path, size = None, None  # which a header of its own may say of the member that follows
    is_first = True
    while True:
        at = source.position
        block = source.read(_BLOCK)
        if block == bytes(_BLOCK):
            return
        info = _parsed(block, at, is_first, archive)
        is_first = False
        if info.type in (tarfile.GNUTYPE_LONGNAME, *_EXTENDED, tarfile.XGLTYPE):
            content = _header_content(source, info, archive)
            if info.type == tarfile.GNUTYPE_LONGNAME:
                path = content.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
                continue
            attributes = _attributes(content, archive)
            if info.type == tarfile.XGLTYPE and {"path", "size"} & attributes.keys():
                raise ArchiveError(archive, "gives all of its members one name or size")
            if info.type != tarfile.XGLTYPE:
                path = attributes.get("path", path)
                size = _number(attributes["size"], archive) if "size" in attributes else size
            continue
        name = safe_name(info.name if path is None else path, archive)
        length = info.size if size is None else size
        path, size = None, None
        if info.type == tarfile.DIRTYPE:
            continue
        if info.type not in _REGULAR:
            kind = _KINDS.get(info.type, f"of type {info.type!r}")
            raise ArchiveError(archive, f"its member {name} is {kind}, needs a regular file")
        _check_size(source, name, length, archive)
        start = source.position
        yield Member(name, start, length)
        if not source.skip(start + -(-length // _BLOCK) * _BLOCK - source.position):
            raise ArchiveError(archive, f"is truncated: it ends within its member {name}")


def _parsed(block: bytes, at: int, is_first: bool, archive: str) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        if is_first:
            packing = next((n for magic, n in _COMPRESSED.items() if block.startswith(magic)), None)
            if packing is not None:
                fault = f"is compressed with {packing}: decompress it, to find images in it"
                raise ArchiveError(archive, fault) from error
            fault = "is empty" if not block else f"is no tar archive ({error})"
            raise ArchiveError(archive, fault) from error
        if len(block) < _BLOCK:
            raise ArchiveError(
                archive, f"is truncated: it has no end, after {at:,} bytes"
            ) from error
        raise ArchiveError(archive, f"is damaged at byte {at:,} ({error})") from error


def _header_content(source: Bytes, info: tarfile.TarInfo, archive: str) -> bytes:
    if not 0 <= info.size <= _LARGEST_HEADER:
        fault = f"has a header of {info.size:,} bytes, needs at most {_LARGEST_HEADER:,}"
        raise ArchiveError(archive, fault)
    content = source.read(info.size)
    if len(content) < info.size or not source.skip(-info.size % _BLOCK):
        raise ArchiveError(archive, "is truncated: it ends within a header")
    return content


def _attributes(content: bytes, archive: str) -> dict[str, str]:
    """Read extended attributes: records of `<length> <keyword>=<value>` and a line's end."""
    found: dict[str, str] = {}
    content = content.rstrip(b"\0")
    while content:
        digits = content.split(b" ", 1)[0]
        length = _number(digits.decode("ascii", "replace"), archive)
        keyword, equals, value = content[len(digits) + 1 : length - 1].partition(b"=")
        if length <= len(digits) + 1 or not equals or content[length - 1 : length] != b"\n":
            raise ArchiveError(archive, "is damaged: it has an extended header that is none")
        found[keyword.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        content = content[length:]
    if any(keyword.startswith("GNU.sparse") for keyword in found):
        raise ArchiveError(archive, "has a sparse file, needs regular files")
    return found


def _number(text: str, archive: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ArchiveError(archive, f"has a size that is no number: {text[:40]!r}")
    return int(text)


def safe_name(name: str, archive: str) -> str:
    """Return a member's name without empty parts.

    Raises
    ------
    ArchiveError
        It leads out of the archive.
    """
    parts = name.split("/")
    if name.startswith(("/", "\\")) or ".." in parts or "\0" in name:
        raise ArchiveError(archive, f"its member {name!r} has a name that leads out of it")
    return "/".join(part for part in parts if part not in ("", "."))


def _check_size(source: Bytes, name: str, size: int, archive: str) -> None:
    if size < 0:
        raise ArchiveError(archive, f"its member {name} has the size {size}")
    stop: int | None = getattr(source, "stop", None)
    if stop is not None and size > stop - source.position:
        fault = f"its member {name} has {size:,} bytes, and {stop - source.position:,} are left"
        raise ArchiveError(archive, f"is truncated: {fault}")
