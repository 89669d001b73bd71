"""Checkpoints on the disk: sealed with size and checksum, the newest and the one before.

A checkpoint is a file of `torch.save` that holds plain data, so `torch.load(weights_only=True)` and
`transnext_models.checkpoints` read it. The comment at the end of its zip archive is the seal:

    transnext-checkpoint bytes=<20 digits> sha256=<64 hexadecimal digits>

of the file as `torch.save` wrote it, that is, without the comment and with a comment's length of 0.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .durable import written_durably

__all__ = [
    "BEST",
    "LAST",
    "PREVIOUS",
    "CheckpointDamaged",
    "CheckpointFolder",
    "read_checkpoint",
    "verify_checkpoint",
    "write_checkpoint",
]

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
BEST = "best.ckpt"

FORMAT = 1
"""Layout of the data in a checkpoint; another number is another layout."""

_SEAL = "transnext-checkpoint bytes={size:020d} sha256={digest}"
_SEAL_PATTERN = re.compile(rb"transnext-checkpoint bytes=(\d{20}) sha256=([0-9a-f]{64})")
_SEAL_LENGTH = len(_SEAL.format(size=0, digest="0" * 64))
_BLOCK = 1 << 20


class CheckpointDamaged(ValueError):
    """A checkpoint cannot be used; the message names the file and says what is wrong with it."""


def write_checkpoint(target: Path, content: dict[str, Any], keep: Path | None = None) -> None:
    """Write `content` to `target`, whole or not at all.

    Parameters
    ----------
    keep : Path | None
        The name under which the checkpoint stays that was there before.

    Raises
    ------
    RunFileError
        The file cannot be written.
    """
    with written_durably(target, keep) as file:
        sink = _Digest(file)
        try:
            torch.save(content, sink)  # type: ignore[arg-type]
        except RuntimeError:
            # A write that failed inside of torch's archive writer comes out as another error.
            if sink.error is not None:
                raise sink.error from None
            raise
        seal = _SEAL.format(size=sink.size, digest=sink.sha256.hexdigest()).encode()
        file.seek(-2, io.SEEK_END)  # the length of the comment, the last thing in an archive
        file.write(len(seal).to_bytes(2, "little") + seal)


def verify_checkpoint(path: Path) -> None:
    """Compare a checkpoint with its seal.

    Raises
    ------
    CheckpointDamaged
        It is missing, cannot be read, was cut short or changed, or is no checkpoint of a training
        run.
    """
    try:
        with open(path, "rb") as file:
            fault = _fault(file)
    except OSError as error:
        fault = f"cannot be read ({error.strerror or error})"
    if fault is not None:
        raise CheckpointDamaged(f"{path}: {fault}")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what `write_checkpoint` wrote, tensors on the CPU. Nothing in the file is executed.

    Raises
    ------
    CheckpointDamaged
        See `verify_checkpoint`.
    """
    verify_checkpoint(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch meets in a file that was sealed by another program
        raise CheckpointDamaged(f"{path}: cannot be read ({error})") from error
    if not isinstance(content, dict) or "training" not in content:
        raise CheckpointDamaged(f"{path}: holds no training state")
    if content.get("format") != FORMAT:
        raise CheckpointDamaged(
            f"{path}: its layout is number {content.get('format')!r}, and this version of "
            f"transnext reads number {FORMAT}"
        )
    return content


@dataclass
class CheckpointFolder:
    """The folder `checkpoints` of a run: `last.ckpt`, `previous.ckpt` and `best.ckpt`."""

    path: Path
    last_is_whole: bool = False
    """Whether `last.ckpt` is known to be good; only then may it replace the previous."""

    def save(self, content: dict[str, Any]) -> None:
        """Write `content` as the newest checkpoint and keep the one before."""
        keep = self.path / PREVIOUS if self.last_is_whole else None
        write_checkpoint(self.path / LAST, content, keep)
        self.last_is_whole = True

    def keep_best(self, source: Path | None = None) -> None:
        """Make `best.ckpt` a copy of the newest checkpoint, or of `source`, unless it is one.

        A copy and not a link: what damages the one shall spare the other.
        """
        source = source or self.path / LAST
        best = self.path / BEST
        if best.exists() and _seal(best) == _seal(source):
            return
        with written_durably(best) as target, open(source, "rb") as file:
            shutil.copyfileobj(file, target, _BLOCK)

    @property
    def has_begun(self) -> bool:
        """Whether a run has left here what it can be continued from, whole or damaged."""
        return any((self.path / name).exists() for name in (LAST, PREVIOUS))

    def newest(self) -> tuple[Path | None, list[str]]:
        """Find the newest checkpoint that is whole.

        Returns
        -------
        path : of the checkpoint; None where the run has not begun.
        faults : what is wrong with a newer one, to be said.

        Raises
        ------
        CheckpointDamaged
            There are checkpoints, but none is whole.
        """
        faults: list[str] = []
        for name in (LAST, PREVIOUS):
            path = self.path / name
            if not path.exists():
                continue
            try:
                verify_checkpoint(path)
            except CheckpointDamaged as error:
                faults.append(str(error))
                continue
            self.last_is_whole = name == LAST
            return path, faults
        if faults:
            raise CheckpointDamaged("; ".join(faults))
        return None, faults


class _Digest:
    """Passes on what `torch.save` writes, front to back, and keeps its size and checksum."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.sha256 = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.size += len(data)
        self.sha256.update(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()


def _fault(file: BinaryIO) -> str | None:
    """Say what is wrong with an open checkpoint, None if nothing is."""
    start = file.read(4)
    size = file.seek(0, io.SEEK_END)
    if size == 0:
        return "damaged: an empty file"
    if start != b"PK\x03\x04":
        return f"not a checkpoint: it starts with {start!r}"
    file.seek(max(0, size - _SEAL_LENGTH))
    seal = _SEAL_PATTERN.fullmatch(file.read())
    if seal is None:
        # An archive of somebody else's is whole; of ours, a part is left.
        if zipfile.is_zipfile(file):
            return "holds no training state that `transnext train` wrote, or its end is damaged"
        return f"damaged: cut short, {size} bytes are left"
    expected = int(seal[1])
    if expected != size - _SEAL_LENGTH:
        return f"damaged: {size - _SEAL_LENGTH} bytes, and {expected} were written"
    file.seek(0)
    digest = hashlib.sha256()
    left = expected - 2
    while left and (block := file.read(min(left, _BLOCK))):
        digest.update(block)
        left -= len(block)
    digest.update(b"\0\0")
    if digest.hexdigest().encode() != seal[2]:
        return "damaged: its checksum is not the one that was written"
    return None


def _seal(path: Path) -> bytes:
    """Return the last bytes of a checkpoint, which identify it."""
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, io.SEEK_END) - _SEAL_LENGTH))
        return file.read()
