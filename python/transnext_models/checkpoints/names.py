"""Tell a network's entries in a state dict from others by what stands before their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import file_error, quoted

# What programs put before the names: a detector's backbone, DataParallel, Lightning, torch.compile.
_WRAPPERS = {"backbone", "module", "model", "_orig_mod"}
# The first parameter of every TransNeXt: whatever precedes it precedes all.
_ANCHOR = "patch_embed1.proj.weight"
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class ParameterNames:
    """The entries that belong to a network.

    Attributes
    ----------
    prefix
        What stands before their names.
    names
        For each entry's key the parameter's name.
    others
        What stands before the names of other networks of the same kind.
    """

    prefix: str
    names: dict[str, str]
    others: tuple[str, ...]


def holds_network(entries: Iterable[object]) -> bool:
    """Whether there is a TransNeXt's first parameter among these names."""
    return any(_is_anchor(name) for name in entries)


def network_prefixes(entries: Iterable[object]) -> list[str]:
    """Return what stands before the names of each TransNeXt in `entries`."""
    return [name[: -len(_ANCHOR)] for name in entries if isinstance(name, str) and _is_anchor(name)]


def parameter_names(path: Path, entries: Mapping[str, Any], start: str = "") -> ParameterNames:
    """Return which entries are the network's, and their names in it.

    Parameters
    ----------
    path, entries
        The file, and the state dict in it.
    start
        What all names in `entries` begin with, and is no part of them.

    Raises
    ------
    CheckpointError
        If there are several networks, none of which stands where programs put theirs.
    """
    prefixes = network_prefixes(entries)
    usual = [p for p in prefixes if set(p[len(start) :].split(".")[:-1]) <= _WRAPPERS]
    if len(prefixes) > 1 and not usual:
        shown = ", ".join(sorted(prefix[:80] for prefix in prefixes)[:_SHOWN])
        example = quoted(prefixes[0].removesuffix("."))
        raise file_error(
            path, f"it has several TransNeXts: {shown}; choose one with key=, such as {example}"
        )
    prefix = min(usual or prefixes or [start], key=len)
    names = {key: key[len(prefix) :] for key in entries if key.startswith(prefix)}
    return ParameterNames(prefix, names, tuple(other for other in prefixes if other != prefix))


def _is_anchor(name: object) -> bool:
    return isinstance(name, str) and (name == _ANCHOR or name.endswith(f".{_ANCHOR}"))
