"""Files that are whole or unchanged, whenever the machine or the process stops.

A file is written beside its target, so on the same file system, brought to the disk, and renamed;
then the folder is brought to the disk too, without which a power cut may undo the renaming.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["RunFileError", "remove_unfinished", "sync_folder", "write_text", "written_durably"]

# What file systems answer that cannot bring a folder to the disk by itself.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RunFileError(RuntimeError):
    """A file of a run cannot be written; what was there before is still there."""


@contextlib.contextmanager
def written_durably(target: Path, keep: Path | None = None) -> Iterator[BinaryIO]:
    """Yield a file to write, which replaces `target` if all went well.

    Parameters
    ----------
    keep : Path | None
        The name, beside `target`, under which the file stays that was there before.

    Raises
    ------
    RunFileError
        The file cannot be written, for want of space for instance; names it and says why.
    """
    part = _part_of(target)
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and target.exists():
            _rename_keeping(target, keep)
        os.replace(part, target)
        sync_folder(target.parent)
    except OSError as error:
        raise _unwritten(target, error) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(part)


def write_text(target: Path, text: str) -> None:
    """Write `text` as UTF-8, unless `target` holds just that already."""
    content = text.encode()
    if target.is_file() and target.read_bytes() == content:
        return
    with written_durably(target) as file:
        file.write(content)


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, where the file system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in _NO_FOLDER_SYNC:
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


def remove_unfinished(target: Path) -> None:
    """Remove what a process killed while it wrote `target` has left beside it."""
    for part in target.parent.glob(f".{target.name}.*part"):
        with contextlib.suppress(OSError):
            part.unlink()
    with contextlib.suppress(OSError):
        _part_of(target).unlink()


def _part_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def _rename_keeping(target: Path, keep: Path) -> None:
    """Give a file a second name, so that it can be replaced under its first one."""
    spare = _part_of(keep)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(spare)
    try:
        os.link(target, spare)
    except OSError:
        # A file system without links: for a moment the file has the other name only.
        os.replace(target, keep)
        return
    os.replace(spare, keep)


def _unwritten(target: Path, error: OSError) -> RunFileError:
    reason = error.strerror or str(error)
    advice = "free some space" if error.errno in _FULL else "mend that"
    return RunFileError(f"{target}: cannot be written ({reason}): {advice}")
