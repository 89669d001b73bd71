"""Names in a file: which hold weights, which averaged ones, which are a network's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .errors import file_error, quoted

# A name is a usual one if it is put together from these words: `state_dict`, `net`, `model_ema`.
_PLACES = frozenset(
    (
        *("state", "dict", "model", "module", "net", "network", "params", "parameters", "weights"),
        *("student", "backbone", "encoder"),
    )
)
_AVERAGES = frozenset(("ema", "swa", "averaged", "average", "avg", "teacher", "shadow"))
# What programs put before the names: a detector's backbone, DataParallel, Lightning, torch.compile.
_WRAPPERS = {"backbone", "module", "model", "_orig_mod"}
# What detectors and segmentors put before the names of their backbone.
BACKBONE = "backbone."
# The first parameter of every TransNeXt: whatever precedes it precedes all.
FIRST_PARAMETER = "patch_embed1.proj.weight"
_SHOWN = 4
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ParameterNames:
    """The entries that belong to a network.

    Attributes
    ----------
    prefix : str
        What stands before their names.
    names : dict[str, str]
        For each entry's key the parameter's name.
    others : tuple[str, ...]
        What stands before the names of other networks of the same kind.
    """

    prefix: str
    names: dict[str, str]
    others: tuple[str, ...]

    def of_whole(self, entries: Iterable[Any]) -> ParameterNames:
        """Return the names in the bigger network whose backbone this one is."""
        prefix = self.prefix.removesuffix(BACKBONE)
        names = {
            key: key[len(prefix) :]
            for key in entries
            if isinstance(key, str) and key.startswith(prefix)
        }
        return ParameterNames(prefix, names, self.others)


def is_usual(name: str) -> bool:
    """Whether programs keep weights under such a name."""
    words = _words(name)
    return bool(words) and words <= _PLACES | _AVERAGES


def is_averaged(name: str) -> bool:
    """Whether a name says that what is under it are averaged weights."""
    return bool(_words(name) & _AVERAGES)


def holds_network(entries: Iterable[object]) -> bool:
    """Whether there is a TransNeXt's first parameter among these names."""
    return any(_is_first_parameter(name) for name in entries)


def of_backbone(entries: Mapping[str, T]) -> Mapping[str, T]:
    """Return a detector's or segmentor's entries of its backbone, by their names in it.

    Entries that are a backbone's or a classifier's themselves are returned as they are.
    """
    if BACKBONE + FIRST_PARAMETER not in entries:
        return entries
    return {
        name.removeprefix(BACKBONE): value
        for name, value in entries.items()
        if name.startswith(BACKBONE)
    }


def network_prefixes(entries: Iterable[object]) -> list[str]:
    """Return what stands before the names of each TransNeXt in `entries`."""
    return [
        name[: -len(FIRST_PARAMETER)]
        for name in entries
        if isinstance(name, str) and _is_first_parameter(name)
    ]


def parameter_names(path: Path, entries: Mapping[str, Any], start: str = "") -> ParameterNames:
    """Return which entries are the network's, and their names in it.

    Parameters
    ----------
    path, entries : Path, Mapping[str, Any]
        The file, and the state dict in it.
    start : str
        What all names in `entries` begin with, and is no part of them.

    Raises
    ------
    CheckpointError
        If there are several networks, none of which stands where programs put theirs.
    """
    prefixes = network_prefixes(entries)
    best = min((_rank(prefix[len(start) :]) for prefix in prefixes), default=0)
    pool = [prefix for prefix in prefixes if _rank(prefix[len(start) :]) == best]
    if len(pool) > 1 and best != _WRAPPED:
        shown = ", ".join(sorted(prefix[:80] for prefix in prefixes)[:_SHOWN])
        example = quoted(pool[0].removesuffix("."))
        raise file_error(
            path, f"it has several TransNeXts: {shown}; choose one with key=, such as {example}"
        )
    prefix = min(pool or [start], key=len)
    names = {key: key[len(prefix) :] for key in entries if key.startswith(prefix)}
    return ParameterNames(prefix, names, tuple(other for other in prefixes if other != prefix))


# Of several networks in one state dict, the average of a model (`model_ema.`) comes first, then
# what stands where programs put their network. A bare `ema.` beside `model.` may be a part of it.
_AVERAGE, _WRAPPED, _BARE_AVERAGE, _OTHER = range(4)


def _rank(prefix: str) -> int:
    parts = prefix.split(".")[:-1]
    averaged = [part for part in parts if is_averaged(part)]
    if any(_words(part) & _PLACES for part in averaged):
        return _AVERAGE
    if set(parts) <= _WRAPPERS:
        return _WRAPPED
    return _BARE_AVERAGE if averaged else _OTHER


def _is_first_parameter(name: object) -> bool:
    return isinstance(name, str) and (
        name == FIRST_PARAMETER or name.endswith(f".{FIRST_PARAMETER}")
    )


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]+", name.lower()))
