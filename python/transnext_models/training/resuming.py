"""Where a run starts: at its beginning or at a checkpoint, and whether it is the same run."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint_files import (
    LAST,
    PREVIOUS,
    CheckpointDamaged,
    CheckpointFolder,
    read_checkpoint,
    verify_checkpoint,
)
from .libraries import library_versions
from .options import CommonOptions
from .recipes import Recipe
from .run_folder import RunFolder, read_configuration, read_configuration_file
from .run_lock import LOCK_NAME

__all__ = [
    "Start",
    "check_same_run",
    "choose_start",
    "configuration_of",
    "configuration_to_repeat",
    "differences",
    "run_of",
]

# Of what recipes had not when a run of an earlier version began.
_DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(Recipe)
    if field.default is not dataclasses.MISSING
}


@dataclass(frozen=True)
class Start:
    """What a run goes on from.

    Attributes
    ----------
    path, content
        Of a checkpoint; None at the beginning.
    configuration : dict[str, Any] | None
        With which the run began; None of a new one.
    """

    path: Path | None = None
    content: dict[str, Any] | None = None
    configuration: dict[str, Any] | None = None


def configuration_to_repeat(path: Path) -> dict[str, Any]:
    """Return the configuration that --config names.

    Raises
    ------
    ValueError
        There is none, or it is damaged.
    """
    try:
        return read_configuration_file(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"--config: got {path}, which does not exist, needs config.json") from None


def run_of(resume: Path) -> Path:
    """Return the folder of the run that --resume means by a folder or one of its checkpoints."""
    return resume.parent.parent if resume.is_file() else resume


def configuration_of(resume: Path) -> dict[str, Any] | None:
    """Return what the run of --resume was begun with, None where that cannot be read.

    It is in its config.json, and in its checkpoints.
    """
    with contextlib.suppress(ValueError):
        configuration = read_configuration(run_of(resume))
        if configuration is not None:
            return configuration
    with contextlib.suppress(ValueError):
        folder = CheckpointFolder(resume / "checkpoints")
        path = folder.newest()[0] if resume.is_dir() else resume
        if path is not None:
            content: dict[str, Any] = read_checkpoint(path)["configuration"]
            return content
    return None


def choose_start(options: CommonOptions, folder: RunFolder) -> Start:
    """Find what `options` mean to start from.

    Raises
    ------
    ValueError
        There is nothing to resume, or something that would be overwritten.
    CheckpointDamaged
        All there is to resume is damaged.
    """
    if options.resume is None:
        if folder.has_begun:
            raise ValueError(
                f"--output {options.output} already holds a run: continue it with "
                f"--resume {options.output}, or name another folder"
            )
        return Start(configuration=read_configuration(folder.path))
    path = _checkpoint(options.resume, folder)
    if run_of(options.resume).resolve() != folder.path.resolve() and folder.has_begun:
        raise ValueError(
            f"--output {options.output} already holds a run, another one than --resume "
            f"{options.resume}: name a new folder"
        )
    if path is None:
        return Start(configuration=configuration_of(options.resume))
    content = read_checkpoint(path)
    return Start(path, content, content["configuration"])


def differences(configuration: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say in what a run differs from another one, of what decides its result.

    Parameters
    ----------
    configuration, now : Mapping[str, Any]
        `resolved` and `recipe` of each.
    """
    before, resolved = configuration["resolved"], now["resolved"]
    changed = [
        f"{name} was {before[name]!r} and is {value!r}"
        for name, value in resolved.items()
        if name in before and name not in library_versions() and before[name] != value
    ]
    recipe = configuration.get("recipe", {})
    if recipe.get("name") != now["recipe"]["name"]:
        return changed  # all else about it may differ, which goes without saying
    # What is said already in what was resolved from it is said once.
    changed += [
        f"the recipe's {name} was {recipe.get(name, _DEFAULTS.get(name))!r} and is {value!r}"
        for name, value in now["recipe"].items()
        if name not in resolved and recipe.get(name, _DEFAULTS.get(name)) != value
    ]
    return changed


def check_same_run(
    configuration: Mapping[str, Any], now: Mapping[str, Any], options: CommonOptions
) -> None:
    """Compare what decides a result with what the run began with.

    Parameters
    ----------
    configuration, now : Mapping[str, Any]
        `resolved` and `recipe` of each.

    Raises
    ------
    ValueError
        Names what differs.
    """
    changed = differences(configuration, now)
    if not changed:
        return
    if options.resume is not None:
        raise ValueError(f"--resume {options.resume}: {', '.join(changed)}")
    raise ValueError(
        f"--output {options.output} holds a run that was begun otherwise: {', '.join(changed)}; "
        f"begin it as it was with --resume {options.output}, or name another folder"
    )


def _checkpoint(resume: Path, folder: RunFolder) -> Path | None:
    """Return the newest whole checkpoint that --resume means; None of a run that has none yet."""
    if resume.is_dir():
        ours = resume.resolve() == folder.path.resolve()
        checkpoints = folder.checkpoints if ours else CheckpointFolder(resume / "checkpoints")
        path, faults = checkpoints.newest()
        if path is not None:
            _say_instead(faults, path)
        # Its configuration or its lock show that a run was begun here.
        elif not any((resume / name).exists() for name in ("config.json", LOCK_NAME)):
            raise ValueError(
                f"--resume {resume}: there is no checkpoint {resume / 'checkpoints' / LAST}"
            )
        return path
    if not resume.is_file():
        raise ValueError(f"--resume {resume}: there is no checkpoint {resume}")
    try:
        verify_checkpoint(resume)
    except CheckpointDamaged as error:
        before = resume.with_name(PREVIOUS)
        if resume.name != LAST or not before.exists():
            raise
        verify_checkpoint(before)
        _say_instead([str(error)], before)
        return before
    return resume


def _say_instead(faults: list[str], path: Path) -> None:
    for fault in faults:
        print(f"{fault}; going on from the one before, {path}", file=sys.stderr, flush=True)
