"""Find the state dict in what a file holds: by the key that was asked for, or by the usual names.

Training programs keep weights under many names, and often raw ones beside their running average.
Where both are there the averaged ones are taken, as timm does (`timm.models.load_state_dict`), and
whoever asked for none by name is warned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import file_error, listed, quoted
from .limits import LONGEST_NAME
from .names import holds_network, is_averaged, is_usual, network_prefixes
from .tensors import WeightsSource

# Of several usual names the first of these; timm's come first.
_ORDER = ("state_dict_ema", "model_ema", "state_dict", "model", "module")
_DEEPEST = 4
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class StateDict:
    """A state dict in a file, and how it was found.

    Attributes
    ----------
    entries : Mapping[str, Any]
        Name to a value that the file's reader understands.
    key : str
        Where it is, keys joined by dots; "" for the top level.
    averaged : bool
        Whether that key means averaged weights.
    others : tuple[str, ...]
        Keys of the other state dicts that could have been meant; none if `key` was asked for.
    unread : tuple[str, ...]
        Averaged weights that are there too, but not as a state dict, and what they are.
    prefix : str | None
        What the names asked for begin with, if `key` reached into the state dict; else None.
    """

    entries: Mapping[str, Any]
    key: str = ""
    averaged: bool = False
    others: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    prefix: str | None = None


@dataclass(frozen=True, slots=True)
class _Candidate:
    path: tuple[str, ...]
    entries: dict[Any, Any]
    swapped: bool = False  # what its top-level name says of averages is the other way round

    @property
    def key(self) -> str:
        return ".".join(self.path)

    @property
    def is_usual(self) -> bool:
        # Below an average's name is the average, whatever its program called it there.
        return all(map(is_usual, self.path)) or (
            self.is_averaged and is_averaged(self.path[0]) and is_usual(self.path[0])
        )

    @property
    def is_averaged(self) -> bool:
        return any(map(is_averaged, self.path)) != self.swapped

    @property
    def rank(self) -> tuple[object, ...]:
        """Smaller is better; equal ranks are ambiguous."""
        ranks = (_ORDER.index(part) if part in _ORDER else len(_ORDER) for part in self.path)
        return (not self.is_averaged, not self.path, *ranks)


def find_state_dict(path: Path, source: WeightsSource, key: str | None) -> StateDict:
    """Return the state dict in `source`, an open file called `path`.

    Parameters
    ----------
    path, source : Path, WeightsSource
        The file.
    key : str | None
        Where it is: keys joined by dots, which may go on into the names of a state dict
        (``state_dict.model_ema``). None looks under the usual names.

    Raises
    ------
    CheckpointError
        If there is none, or several of which none is to be preferred; the message lists them.
    """
    if not isinstance(source.root, dict):
        raise file_error(path, f"it holds no state dict: it is {source.describe(source.root)}")
    found = _search(path, source, source.root) if key is None else _ask(path, source, key)
    if not all(isinstance(name, str) for name in found.entries):
        raise file_error(path, "its state dict has entries without a name")
    return found


# -- without a key --------------------------------------------------------------------------------


def _search(
    path: Path, source: WeightsSource, root: dict[Any, Any], above: tuple[str, ...] = ()
) -> StateDict:
    candidates = list(_candidates(source, root, above))
    networks = [candidate for candidate in candidates if holds_network(candidate.entries)]
    usual = [candidate for candidate in networks if candidate.is_usual]
    # Weights of something else can be read too, where it is clear which they are.
    pool = usual or networks or [candidate for candidate in candidates if candidate.is_usual]
    if not pool:
        return _no_state_dict(path, source, root, above)
    best = min(pool, key=lambda candidate: candidate.rank)
    others = [candidate for candidate in pool if candidate is not best]
    if any(candidate.rank == best.rank for candidate in others):
        keys = listed([candidate.key for candidate in pool])
        raise file_error(path, f"it has several state dicts: {keys}; choose one with key=")
    return StateDict(
        best.entries,
        best.key,
        best.is_averaged,
        tuple(candidate.key for candidate in others),
        () if best.is_averaged else tuple(_unread_averages(source, root)),
    )


def _unread_averages(source: WeightsSource, root: dict[Any, Any]) -> Iterator[str]:
    """Say which values by the name of an average are objects or lists: no state dicts."""
    names = [name for name in root if _is_name(name) and is_usual(name) and is_averaged(name)]
    for name in names[:_SHOWN]:
        value = root[name]
        if isinstance(value, dict) and any(
            holds_network(below.entries) for below in _candidates(source, value, (name,))
        ):
            continue  # the same as another
        if source.is_object(value) or (isinstance(value, (dict, list)) and value):
            yield f"{quoted(name)}, {source.describe(value)}"


def _is_swapped(source: WeightsSource, path: tuple[str, ...]) -> bool:
    """Whether a training program has exchanged raw and averaged weights before it saved them.

    MMEngine does, so that `state_dict` is what is to be used; `message_hub` and `meta` are its own.
    """
    names = source.root.keys()
    by_mmengine = {"state_dict", "ema_state_dict"} <= names and names & {"message_hub", "meta"}
    return bool(by_mmengine) and path[:1] in (("state_dict",), ("ema_state_dict",))


def _candidates(
    source: WeightsSource, root: dict[Any, Any], above: tuple[str, ...]
) -> Iterator[_Candidate]:
    """Yield every dict with tensors in it, the shallowest first; each once, whatever shares it."""
    level = [_Candidate(above, root, _is_swapped(source, above))]
    seen = {id(root)}
    for _ in range(_DEEPEST):
        below = []
        for candidate in level:
            if _has_tensors(source, candidate.entries):
                yield candidate
            for name, value in candidate.entries.items():
                if _is_name(name) and _is_group(source, value) and id(value) not in seen:
                    seen.add(id(value))
                    path = (*candidate.path, name)
                    below.append(_Candidate(path, value, _is_swapped(source, path)))
        level = below


def _has_tensors(source: WeightsSource, entries: Mapping[Any, Any]) -> bool:
    return any(isinstance(name, str) and source.is_tensor(entries[name]) for name in entries)


def _no_state_dict(
    path: Path, source: WeightsSource, root: dict[Any, Any], above: tuple[str, ...]
) -> StateDict:
    """Return an empty file's state dict, or say why there is none."""
    if not root and source.is_flat:
        return StateDict({})
    where = f"under {quoted('.'.join(above))}" if above else "at its top level"
    for name, value in root.items():
        if not (_is_name(name) and is_usual(name)):
            continue
        if not isinstance(value, dict):
            described = source.describe(value)
            raise file_error(
                path, f"its {quoted(name)} is {described}; save model.state_dict() instead"
            )
        raise file_error(
            path, f"its {quoted(name)} is empty or has entries without a name, none a tensor"
        )
    raise file_error(path, f"it holds no state dict; {where} are {_listed(root)}")


# -- by key ---------------------------------------------------------------------------------------


def _ask(path: Path, source: WeightsSource, key: str) -> StateDict:
    value, taken, rest = _walk(source, key)
    if rest:
        names = {}
        if _is_group(source, value):
            start = f"{rest}."
            names = {n: v for n, v in value.items() if isinstance(n, str) and n.startswith(start)}
        if not _has_tensors(source, names):
            raise file_error(path, f"it has no state dict {quoted(key)}; {_keys(source)}")
        return StateDict(names, ".".join(taken), _means_average(key), prefix=f"{rest}.")
    if not _is_group(source, value):
        what = "a tensor" if source.is_tensor(value) else source.describe(value)
        has = _keys(source)
        raise file_error(path, f"its {quoted(key)} is {what}, not a state dict; {has}")
    is_it = holds_network(value) or (
        _has_tensors(source, value)
        and not any(holds_network(below.entries) for below in _candidates(source, value, taken))
    )
    if is_it:
        return StateDict(value, ".".join(taken), _means_average(key))
    return _search(path, source, value, taken)


def _walk(source: WeightsSource, key: str) -> tuple[Any, tuple[str, ...], str]:
    """Follow `key` as far as it leads: what is there, the way to it, and what is left of the key.

    A name may have dots in it, so the longest that is there is followed.
    """
    value, taken, rest = source.root, tuple[str, ...](), key
    while rest and _is_group(source, value):
        parts = rest.split(".")
        names = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
        name = next((name for name in names if name in value), None)
        if name is None:
            break
        value, taken, rest = value[name], (*taken, name), rest[len(name) + 1 :]
    return value, taken, rest


def _keys(source: WeightsSource) -> str:
    """Say which keys would be right."""
    keys = []
    for candidate in _candidates(source, source.root, ()):
        if candidate.path:
            keys.append(candidate.key)
        inner = (prefix.removesuffix(".") for prefix in network_prefixes(candidate.entries))
        keys += [".".join((*candidate.path, prefix)) for prefix in inner if prefix]
    if not keys and _has_tensors(source, source.root):
        return "it is a state dict itself and has no others"
    if keys:
        return f"its state dicts are {listed(keys)}"
    return f"at its top level are {_listed(source.root)}"


# -- names and values -----------------------------------------------------------------------------


def _is_name(name: object) -> bool:
    return isinstance(name, str) and len(name) <= LONGEST_NAME


def _is_group(source: WeightsSource, value: object) -> bool:
    return isinstance(value, dict) and not source.is_tensor(value)


def _means_average(key: str) -> bool:
    return any(map(is_averaged, key.split(".")))


def _listed(entries: Mapping[Any, Any]) -> str:
    if not entries:
        return "nothing"
    names = [key for key in entries if isinstance(key, str)]
    return listed(names) if names else f"{len(entries)} without a name"
