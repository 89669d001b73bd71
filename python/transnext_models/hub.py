"""Turn what a user calls weights into a local file: a path, a published name, a file on the Hub.

Downloads go through `huggingface_hub`: its cache, its progress bar, its proxy and token settings.
A file already in the cache is used without asking the network: published weights do not change.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from .variants import VARIANTS, find_checkpoint

DEFAULT_REVISION = "main"
# The name that files have by convention in repositories of a single model.
DEFAULT_FILE = "model.safetensors"

_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
_HUB_ID = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[\w./-]+))?"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


class DownloadError(RuntimeError):
    """Weights could not be had from the Hub; the message says what to do without it."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file on the Hugging Face Hub."""

    repo: str
    file: str
    revision: str = DEFAULT_REVISION

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repo, self.file, revision=self.revision)

    def __str__(self) -> str:
        return f"{self.file} of {self.repo}"


def resolve_weights(source: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """Return a local file with the weights called `source`, downloading it if need be.

    Parameters
    ----------
    source
        A file; a model name such as ``transnext_tiny`` or ``transnext_small.in1k_384``; or a file
        on the Hub as ``owner/repo:file``, ``owner/repo@revision:file`` or ``owner/repo`` (then the
        published file of that repository, else ``model.safetensors``).
    revision
        Branch, tag or commit on the Hub; None is the one in `source`, else ``main``.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If `source` is none of these, or a file that does not exist.
    DownloadError
        If the file is neither in the cache nor to be had from the Hub.
    """
    path = Path(source)
    if path.is_file() or not isinstance(source, str) or source.startswith(("/", "./", "../", "~")):
        return _existing(path.expanduser())
    # A folder called like a model, perhaps a training run's, does not hide the model.
    if path.is_dir() and source.partition(".")[0] not in VARIANTS:
        return _existing(path)
    match = _HUB_ID.fullmatch(source)
    if match and (match["file"] or not source.endswith(_SUFFIXES)):
        file = match["file"] or _published_file(match["repo"]) or DEFAULT_FILE
        return fetch(HubFile(match["repo"], file, revision or match["revision"] or "main"))
    if source.endswith(_SUFFIXES) or "/" in source:
        raise ValueError(
            f"weights: there is no file {source!r} (a file on the Hub is written owner/repo:file)"
        )
    variant, checkpoint = find_checkpoint(source)
    if checkpoint.repo is None:
        return _packaged(checkpoint.file, f"{variant.name}.{checkpoint.tag}")
    return fetch(HubFile(checkpoint.repo, checkpoint.file, revision or DEFAULT_REVISION))


def cache_folder() -> Path:
    """Return the folder in which downloaded weights are kept (``HF_HUB_CACHE``, ``HF_HOME``)."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def cached(file: HubFile) -> Path | None:
    """Return where `file` lies in the cache, or None; never asks the network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(
        file.repo, file.file, cache_dir=cache_folder(), revision=file.revision
    )
    return Path(found) if isinstance(found, str) else None


def fetch(file: HubFile) -> Path:
    """Return a local copy of `file`, from the cache or else from the Hub.

    Raises
    ------
    DownloadError
        If there is no network, no such file, no access, or the download is damaged.
    """
    found = cached(file)
    if found is not None:
        return found
    from huggingface_hub import get_hf_file_metadata, hf_hub_download

    try:
        # Asked first because it fails at once without a network; the download would retry for long.
        get_hf_file_metadata(file.url)
        with _progress_only_on_a_terminal():
            path = Path(
                hf_hub_download(
                    file.repo, file.file, revision=file.revision, cache_dir=cache_folder()
                )
            )
    except Exception as error:
        reason = _reason(file, error)
        if reason is None:
            raise
        raise DownloadError(_advice(file, reason)) from error
    _check_digest(file, path)
    return path


def _existing(path: Path) -> Path:
    if path.is_file():
        return path
    what = "a folder; give the file in it" if path.is_dir() else "not there"
    raise ValueError(f"weights: the file {path} is {what}")


def _published_file(repo: str) -> str | None:
    for variant in VARIANTS.values():
        for checkpoint in variant.checkpoints:
            if checkpoint.repo == repo:
                return checkpoint.file
    return None


def _packaged(name: str, model: str) -> Path:
    path = Path(str(resources.files(__package__) / "assets" / name))
    if not path.is_file():
        raise ValueError(
            f"weights: this installation lacks {path.name}, the weights of {model}; "
            "install the package again, or give weights of your own"
        )
    return path


def _check_digest(file: HubFile, path: Path) -> None:
    """Compare a fresh download with its SHA-256, which is the name of its blob in the cache."""
    blob = path.resolve()
    if not _SHA256.fullmatch(blob.name):
        return
    digest = hashlib.sha256()
    with open(blob, "rb") as data:
        while block := data.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != blob.name:
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
        raise DownloadError(_advice(file, "what arrived is damaged (wrong SHA-256), try again"))


@contextmanager
def _progress_only_on_a_terminal() -> Iterator[None]:
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    hide = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


def _reason(file: HubFile, error: Exception) -> str | None:
    """Say why the Hub did not give `file`; None if the error is not the network's or the Hub's.

    The Hub's client changed its HTTP library between versions, so the library's errors are told by
    the module they come from.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is on (HF_HUB_OFFLINE)"
    if isinstance(error, HfHubHTTPError):
        status = getattr(error.response, "status_code", None)
        if status == 404:
            return f"the Hub has no such file at revision {file.revision!r}"
        if status in (401, 403):
            return "no such repository, or one that needs a token (HF_TOKEN)"
        return f"the Hub answered {status or text}"
    if type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3")):
        return f"no connection to the Hub ({text})"
    if isinstance(error, (OSError, ValueError, RuntimeError)):
        return text
    return None


def _advice(file: HubFile, reason: str) -> str:
    return (
        f"cannot download {file}: {reason}\n"
        f"It is not in the cache {cache_folder()} either. To go on without the Hub, fetch\n"
        f"    {file.url}\n"
        "where there is a network, and give that file as the weights: --weights FILE, or in Python "
        'create_model(name, weights="FILE").'
    )
