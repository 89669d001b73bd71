"""Find a shared model: in a folder, or in a repository on the Hub."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.errors import escaped
from ..checkpoints.hub import DEFAULT_FILE, fetch
from ..checkpoints.hub_file import DEFAULT_REVISION, HubFile
from ..variants import VARIANTS, architecture_arguments
from .config import CONFIG_FILE, SharedConfig, pretrained_config, read_config

__all__ = ["SharedModel", "is_shared", "open_shared"]

_HUB = ("hf-hub:", "hf_hub:")
_FOLDER = "local-dir:"


@dataclass(frozen=True)
class SharedModel:
    """A model's configuration, and where its weights are."""

    config: SharedConfig
    source: Path | HubFile

    def weights(self) -> Path:
        """Return the weights' file, downloading it if need be.

        Raises
        ------
        ValueError, DownloadError
            If it is not there.
        """
        if isinstance(self.source, HubFile):
            return fetch(self.source)
        if not self.source.is_file():
            raise ValueError(f"weights: the file {escaped(str(self.source))} is not there")
        return self.source


def is_shared(name: str) -> bool:
    """Whether a model's name says where it is shared: ``hf-hub:owner/repo``, ``local-dir:PATH``."""
    return name.startswith((*_HUB, _FOLDER))


def open_shared(
    source: str | os.PathLike[str], known: Collection[str], revision: str | None = None
) -> SharedModel:
    """Return the configuration of a shared model, and where its weights are.

    Of a repository the version that is there now is taken, and where the Hub cannot be asked the
    one in the cache; weights and configuration are of the same version.

    Parameters
    ----------
    source : str | os.PathLike[str]
        ``owner/repo``, ``owner/repo@revision`` or a folder; ``hf-hub:`` or ``local-dir:`` before it
        says which.
    known : Collection[str]
        The model's parameters.
    revision : str | None
        Branch, tag or commit on the Hub; None is the one in `source`, else ``main``.

    Raises
    ------
    ValueError
        If there is no such folder, or its configuration is none of a TransNeXt.
    DownloadError
        If the Hub does not give it.
    """
    name = os.fspath(source)
    prefix = next((prefix for prefix in (*_HUB, _FOLDER) if name.startswith(prefix)), "")
    name = name.removeprefix(prefix)
    if prefix not in _HUB:
        folder = Path(name).expanduser()
        if prefix == _FOLDER or folder.is_dir() or not isinstance(source, str):
            path = folder / CONFIG_FILE
            if not path.is_file():
                raise ValueError(f"source: got {escaped(name)}, needs a folder with {CONFIG_FILE}")
            return SharedModel(read_config(path, known), folder / DEFAULT_FILE)
    repo, _, said = name.partition("@")
    revision = revision or said or DEFAULT_REVISION
    if published := _published(repo):
        config, file = published
        return SharedModel(config, HubFile(repo, file, revision))
    path = fetch(HubFile(repo, CONFIG_FILE, revision), current=True)
    commit = path.parent.name  # the cache keeps each commit's files in a folder of its name
    return SharedModel(read_config(path, known), HubFile(repo, DEFAULT_FILE, commit))


def _published(repo: str) -> tuple[SharedConfig, str] | None:
    """Return configuration and file of the published repositories, which have none."""
    for variant in VARIANTS.values():
        for checkpoint in variant.checkpoints:
            if checkpoint.repo == repo:
                arguments = architecture_arguments(variant)
                arguments |= {"in_chans": variant.in_chans, "num_classes": checkpoint.num_classes}
                arguments["img_size"] = checkpoint.img_size
                told = pretrained_config(variant, checkpoint)
                return SharedConfig(variant, arguments, told), checkpoint.file
    return None
