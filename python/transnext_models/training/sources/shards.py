"""Shards as webdataset writes them: archives with the files of a sample one after another.

A sample's files share the name up to the first dot: `n01440764_10026.jpg` is the image, and
`n01440764_10026.cls` its label, or `n01440764_10026.json` with an entry `label`. Labels are
numbers.
"""

from __future__ import annotations

import glob
import json
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from ...images import is_hidden
from ...images.formats import readable_suffixes
from .archive_index import Entry, indexed
from .archives import ArchivedImages, opened
from .requirements import needed
from .tar_members import ArchiveError, Bytes, members

__all__ = [
    "ShardSample",
    "is_streamed",
    "looks_like_shard",
    "samples",
    "shard_images",
    "shard_names",
]

_LABEL_FILES = ("cls", "json")
_LARGEST_LABEL_FILE = 1 << 20
_LARGEST_IMAGE = 1 << 28
_LARGEST_LABEL = 1 << 20
_WILDCARDS = "*?["
_MOST_SHARDS = 1 << 20


class ShardSample(NamedTuple):
    """One sample: name and label, and where its image lies, or its bytes if they were asked for."""

    name: str
    label: int
    offset: int
    size: int
    content: bytes


def shard_names(pattern: str) -> list[str]:
    """Return the shards that a pattern stands for: braces, and wildcards in local paths.

    Raises
    ------
    ValueError
        It stands for none, or for a local file that is not there.
    """
    names = _expanded(pattern) if "{" in pattern else [pattern]
    if is_streamed(pattern):
        return names
    names = [_local(name) for name in names]
    found = []
    for name in names:
        matching = sorted(glob.glob(name)) if any(sign in name for sign in _WILDCARDS) else [name]
        missing = [path for path in matching if not Path(path).is_file()]
        if missing or not matching:
            raise ValueError(f"there is no shard {missing[0] if missing else name}")
        found += matching
    return found


def is_streamed(pattern: str) -> bool:
    """Whether shards are the output of a command or have a URL, so that they are read in order."""
    return pattern.startswith("pipe:") or ("://" in pattern and urlsplit(pattern).scheme != "file")


def _expanded(pattern: str) -> list[str]:
    braceexpand = needed("braceexpand", "sources", f"expanding {pattern}")
    names = []
    try:
        for name in braceexpand.braceexpand(pattern):
            names.append(name)
            if len(names) > _MOST_SHARDS:
                raise ValueError(f"stands for more than {_MOST_SHARDS:,} shards")
    except ValueError as error:  # its UnbalancedBracesError too
        raise ValueError(f"{pattern}: {error}") from error
    return names


def _local(name: str) -> str:
    return unquote(urlsplit(name).path) if name.startswith("file://") else name


def shard_images(paths: Sequence[Path]) -> ArchivedImages:
    """Return the images of local shards, in random access.

    Raises
    ------
    ArchiveError
        A shard is damaged, or has a sample without image or label.
    """

    def entries() -> Iterator[Entry]:
        for number, path in enumerate(paths):
            with opened(path) as region:
                for sample in samples(region, str(path), with_images=False):
                    yield Entry(sample.label, sample.name, number, sample.offset, sample.size)

    images = ArchivedImages(paths, indexed("shards", paths, entries))
    if len(images) == 0:
        raise ArchiveError(str(paths[0]), "and all other shards are empty")
    return images


def looks_like_shard(path: Path) -> bool:
    """Whether the first sample of an archive has a label beside its image."""
    with opened(path) as region:
        first = None
        for member in members(region, str(path)):
            key, suffix = _key(member.name)
            if first not in (None, key):
                return False
            first = key
            if suffix in _LABEL_FILES:
                return True
    return False


def samples(source: Bytes, archive: str, *, with_images: bool) -> Iterator[ShardSample]:
    """Yield the samples of a shard.

    Parameters
    ----------
    source : Bytes
        At its start.
    archive : str
        Its name, for errors.
    with_images : bool
        Whether to read the images.

    Raises
    ------
    ArchiveError
        It is damaged, or has a sample without image or label.
    """
    key: str | None = None
    image: tuple[str, int, int, bytes] | None = None
    label: int | None = None
    for member in members(source, archive):
        found, suffix = _key(member.name)
        if is_hidden(posixpath.basename(member.name)):
            continue
        if found != key:
            if key is not None:
                yield _sample(key, image, label, archive)
            key, image, label = found, None, None
        if f".{suffix}" in readable_suffixes():
            if image is not None:
                raise ArchiveError(archive, f"its sample {key} has two images")
            content = (
                _read(source, member.size, _LARGEST_IMAGE, archive, key) if with_images else b""
            )
            image = (member.name, member.offset, member.size, content)
        elif suffix in _LABEL_FILES and label is None:
            content = _read(source, member.size, _LARGEST_LABEL_FILE, archive, key)
            label = _label(content, suffix, archive, key)
    if key is not None:
        yield _sample(key, image, label, archive)


def _key(name: str) -> tuple[str, str]:
    """Split a member's name as webdataset does, at the first dot of its last part."""
    folder, base = posixpath.split(name)
    stem, _, suffix = base.partition(".")
    return posixpath.join(folder, stem), suffix.lower()


def _sample(
    key: str, image: tuple[str, int, int, bytes] | None, label: int | None, archive: str
) -> ShardSample:
    if image is None or label is None:
        missing = "image" if image is None else "label (.cls, or .json with an entry label)"
        raise ArchiveError(archive, f"its sample {key} has no {missing}")
    name, offset, size, content = image
    return ShardSample(name, label, offset, size, content)


def _read(source: Bytes, size: int, most: int, archive: str, key: str | None) -> bytes:
    if size > most:
        raise ArchiveError(archive, f"its sample {key} has a file of {size:,} bytes")
    content = source.read(size)
    if len(content) < size:
        raise ArchiveError(archive, f"is truncated: it ends within its sample {key}")
    return content


def _label(content: bytes, suffix: str, archive: str, key: str | None) -> int | None:
    if suffix == "cls":
        text = content.strip().decode("ascii", "replace")
        value = int(text) if text.isdigit() and len(text) < 10 else text
    else:
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ArchiveError(archive, f"its sample {key} has a .json that is none") from error
        if not isinstance(values, dict) or "label" not in values:
            return None
        value = values["label"]
    if type(value) is not int or not 0 <= value <= _LARGEST_LABEL:
        raise ArchiveError(archive, f"its sample {key} has the label {value!r}, needs a number")
    return value
