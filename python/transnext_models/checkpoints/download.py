"""Download one file from the Hub into the cache, or give up once the server stalls.

`huggingface_hub` waits ten seconds for an answer and for more of one, and tries several times; some
of its ways wait for minutes or, for a server that sends a byte now and then, for ever. So whoever
waits for it here waits only as long as something arrives.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from .hub_file import HubFile

# Less than `_CHUNK` bytes in so many seconds are no download.
STALLED_AFTER = 60.0
_CHUNK = 1_000_000
_POLL = 0.2


class StalledError(RuntimeError):
    """The Hub does not send anything any more."""


def download(file: HubFile, cache: Path, *, instead_of: Path | None = None) -> Path:
    """Download `file` into the folder `cache`, and return where it is.

    Parameters
    ----------
    file, cache : HubFile, Path
        What, and where to.
    instead_of : Path | None
        A damaged copy in the cache, to be removed once the Hub has answered.

    Raises
    ------
    StalledError
        If less than a megabyte arrived within a minute.
    Exception
        Whatever `huggingface_hub` raises.
    """
    from huggingface_hub.file_download import repo_folder_name

    result: list[Path] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(_download(file, cache, instead_of))
        except BaseException as error:
            failure.append(error)

    blobs = cache / repo_folder_name(repo_id=file.repo, repo_type="model") / "blobs"
    # A daemon: what waits for a server that is given up ends with the process at the latest.
    thread = threading.Thread(target=work, name="download", daemon=True)
    with _settings():
        thread.start()
        arrived, since = _arrived(blobs), time.monotonic()
        while thread.is_alive():
            thread.join(_POLL)
            now = _arrived(blobs)
            if now != arrived:
                arrived, since = now, time.monotonic()
            elif time.monotonic() - since > STALLED_AFTER and thread.is_alive():
                raise StalledError(f"it stalled, nothing arrived for {STALLED_AFTER:.0f} seconds")
    if failure:
        raise failure[0]
    return result[0]


def _download(file: HubFile, cache: Path, instead_of: Path | None) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download

    # Asked first because it fails at once without a network; the download would retry for long.
    get_hf_file_metadata(file.url)
    if instead_of is not None:
        remove(instead_of)
    return Path(hf_hub_download(file.repo, file.file, revision=file.revision, cache_dir=cache))


def remove(path: Path) -> None:
    """Remove a file from the cache, and what it points at there."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)


def _arrived(folder: Path) -> int:
    """Return how many bytes lie in a folder of the cache, unfinished files included."""
    total = 0
    try:
        for entry in folder.iterdir():
            total += entry.stat().st_size
    except OSError:  # not there yet, or a file that has just been renamed
        return total
    return total


@contextmanager
def _settings() -> Iterator[None]:
    """Use plain HTTP, written to disk in small chunks, with a progress bar on a terminal."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    with ExitStack() as undo:
        # The other protocol (xet) tells nothing of what arrives.
        _set(undo, constants, "HF_HUB_DISABLE_XET", True)
        _set(undo, constants, "DOWNLOAD_CHUNK_SIZE", _CHUNK)
        if not sys.stderr.isatty() and not are_progress_bars_disabled():
            disable_progress_bars()
            undo.callback(enable_progress_bars)
        yield


def _set(undo: ExitStack, module: Any, name: str, value: object) -> None:
    if hasattr(module, name):
        undo.callback(setattr, module, name, getattr(module, name))
        setattr(module, name, value)
