"""Resolve what a user calls weights to a local file: a path, a published name, a file on the Hub.

Downloads go through `huggingface_hub`: its cache, its progress bar, its proxy and token settings.
A file already in the cache is used without asking the network, since published weights do not
change; whether it is still what was published is looked at every time.
"""

from __future__ import annotations

import os
import re
import warnings
from importlib import resources
from pathlib import Path

from ..variants import VARIANTS, Checkpoint, find_checkpoint
from .digest import sha256
from .download import StalledError, download, remove
from .errors import WeightsWarning
from .hub_file import DEFAULT_REVISION, HubFile

# The name that files have by convention in repositories of a single model.
DEFAULT_FILE = "model.safetensors"

_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
_HUB_ID = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[\w./-]+))?", re.ASCII
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


class DownloadError(RuntimeError):
    """Weights could not be had from the Hub; the message says what to do without it."""


def resolve_weights(source: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """Return a local file with the weights called `source`, downloading it if need be.

    Parameters
    ----------
    source : str | os.PathLike[str]
        A file; a model name such as ``transnext_tiny`` or ``transnext_small.in1k_384``; or a file
        on the Hub as ``owner/repo:file``, ``owner/repo@revision:file`` or ``owner/repo`` (then the
        published file of that repository, else ``model.safetensors``).
    revision : str | None
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
    if not isinstance(source, str) or source.startswith(("/", "./", "../", "~")):
        return _existing(path.expanduser())
    if path.exists() and not path.is_dir():
        return path
    # A folder called like a model, perhaps a training run's, does not hide the model.
    if path.is_dir() and source.partition(".")[0] not in VARIANTS:
        return _existing(path)
    match = _HUB_ID.fullmatch(source)
    if match and (match["file"] or not source.endswith(_SUFFIXES)):
        file = match["file"] or _published_file(match["repo"]) or DEFAULT_FILE
        return fetch(
            HubFile(match["repo"], file, revision or match["revision"] or DEFAULT_REVISION)
        )
    if source.endswith(_SUFFIXES) or "/" in source:
        raise ValueError(
            f"weights: there is no file {source!r} (a file on the Hub is written owner/repo:file)"
        )
    variant, checkpoint = find_checkpoint(source)
    if checkpoint.repo is None:
        return packaged_weights(checkpoint.file, f"{variant.name}.{checkpoint.tag}")
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


def fetch(file: HubFile, *, current: bool = False) -> Path:
    """Return a local copy of `file`, from the cache or else from the Hub.

    A copy in the cache that is not what it should be is downloaded again.

    Parameters
    ----------
    file : HubFile
    current : bool
        Ask whether there is a newer version; the cache's is taken only where nobody answers.

    Raises
    ------
    DownloadError
        If there is no network, no such file, no access, the Hub stops answering, or what is there
        or arrives is damaged.
    """
    found = cached(file)
    damage = None if found is None else _damage(file, found)
    if found is not None and damage is None and not current:
        return found
    try:
        path = download(file, cache_folder(), instead_of=found if damage else None)
    except Exception as error:
        reason = failure_reason(error, file.revision)
        if reason is None:
            raise
        if found is not None and damage is None and not _refused(error):
            return found
        if damage is None:
            raise DownloadError(_advice(file, reason)) from error
        raise DownloadError(
            f"the cached file {found} is damaged: {damage}\n"
            f"It cannot be downloaded again: {reason}\n"
            "Delete it and try again where there is a network, or give a file as the weights: "
            "--weights FILE."
        ) from error
    if damage is not None:
        warnings.warn(
            f"{found}: the cached file was damaged ({damage}); it was downloaded again",
            WeightsWarning,
            stacklevel=3,
        )
    damage = _damage(file, path)
    if damage is not None:
        remove(path)
        raise DownloadError(_advice(file, f"what arrived is damaged ({damage}), try again"))
    return path


def _existing(path: Path) -> Path:
    if path.is_dir():
        raise ValueError(f"weights: the file {path} is a folder; give the file in it")
    # What is no ordinary file is refused, with its kind, by whoever reads it.
    if not path.exists():
        raise ValueError(f"weights: the file {path} is not there")
    return path


def _published_file(repo: str) -> str | None:
    known = (checkpoint for checkpoint in _published() if checkpoint.repo == repo)
    return next((checkpoint.file for checkpoint in known), None)


def _published() -> list[Checkpoint]:
    return [checkpoint for variant in VARIANTS.values() for checkpoint in variant.checkpoints]


def packaged_weights(name: str, model: str) -> Path:
    """Return the file of this package that has the weights of a model.

    Raises
    ------
    ValueError
        If this installation lacks it.
    """
    path = Path(str(resources.files("transnext_models") / "assets" / name))
    if not path.is_file():
        raise ValueError(
            f"weights: this installation lacks {path.name}, the weights of {model}; "
            "install the package again, or give weights of your own"
        )
    return path


def _damage(file: HubFile, path: Path) -> str | None:
    """Say how a file of the cache differs from what was published; None if it does not.

    What was published is known here for some files; of the others the cache says what arrived: it
    names what it keeps by the SHA-256 that the Hub gave.
    """
    expected, size = None, None
    for checkpoint in _published():
        if (checkpoint.repo, checkpoint.file, DEFAULT_REVISION) == (
            file.repo,
            file.file,
            file.revision,
        ):
            expected, size = checkpoint.sha256, checkpoint.bytes
    if expected is None and path.is_symlink():
        # The link's own text: what it leads to may be a link to a store with names of its own.
        name = os.path.basename(os.readlink(path))
        expected = name if _SHA256.fullmatch(name) else None
    if expected is None:
        return None
    try:
        there = path.stat().st_size
        if size is not None and there != size:
            return f"it has {there:,} bytes, the published file {size:,}"
        found = sha256(path)
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    return None if found == expected else f"its SHA-256 is {found}, that of the file {expected}"


def _refused(error: Exception) -> bool:
    """Whether the Hub answered that there is no such file, or that it is not for the asker."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status in (401, 403, 404)


def failure_reason(error: Exception, revision: str = DEFAULT_REVISION) -> str | None:
    """Say why the Hub did not answer; None if the error is not the network's or the Hub's.

    The Hub's client changed its HTTP library between versions, so the library's errors are
    identified by the module they come from.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    if isinstance(error, StalledError):
        return str(error)
    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is on (HF_HUB_OFFLINE)"
    if isinstance(error, HfHubHTTPError):
        status = getattr(error.response, "status_code", None)
        if status == 404:
            return f"the Hub has no such file at revision {revision!r}"
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
