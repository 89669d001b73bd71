"""Read the weights in a file: which format it is, which state dict, which names, which values.

Accepted are safetensors files, and files of `torch.save` that hold a state dict itself or, under
any usual key, inside a training program's checkpoint, as in ``{"model": state_dict, "args": ...}``
or MMEngine's ``{"state_dict": {"backbone.…": …, "neck.…": …}, "meta": …}``. None is ever run (see
`torch_file`), and none takes more than its size allows (see `limits`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .architecture import Architecture, infer_architecture
from .errors import CheckpointError, WeightsWarning, about, file_error, quoted
from .limits import LONGEST_NAME, MOST_ENTRIES, weight_allowance
from .names import ParameterNames, is_averaged, of_backbone, parameter_names
from .opened import OpenFile, opened
from .safetensors_file import SafetensorsFile
from .state_dict import StateDict, find_state_dict
from .tensors import Layout, NotWeightsError, TensorDataError, WeightsSource
from .torch_file import open_torch_file

WEIGHT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_CHUNK = 1 << 20  # elements
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """The weights in one file.

    Attributes
    ----------
    path : Path
        The file.
    state_dict : dict[str, torch.Tensor]
        The parameters by the names of the model, on the CPU, in the file's floating-point types.
    prefix : str
        What stood before the names in the file, such as ``backbone.``; "" if nothing.
    left_out : int
        How many entries had another prefix (the neck and heads of a detector, say).
    metadata : Mapping[str, str]
        The text entries of a safetensors file's header; what a training run's checkpoint says of
        its images and classes.
    architecture : Architecture | None
        What the shapes say; None if they are no TransNeXt's.
    key : str
        Where in the file the state dict was, keys joined by dots; "" for the file itself.
    averaged : bool
        Whether that key means averaged weights.
    other_keys : tuple[str, ...]
        Keys of the other networks that could have been meant, where none was asked for.
    not_weights : Mapping[str, str]
        Entries that are no weights (counters, index buffers), by name, and what they are; such are
        errors where reading is strict.
    """

    path: Path
    state_dict: dict[str, torch.Tensor]
    prefix: str = ""
    left_out: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    architecture: Architecture | None = None
    key: str = ""
    averaged: bool = False
    other_keys: tuple[str, ...] = ()
    not_weights: Mapping[str, str] = field(default_factory=dict)


def read_state_dict(
    path: str | os.PathLike[str], *, key: str | None = None, strict: bool = True
) -> dict[str, torch.Tensor]:
    """Return the weights in `path` by parameter name, on the CPU; see `read_weights`."""
    return read_weights(path, key=key, strict=strict).state_dict


def read_weights(
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    strict: bool = True,
    whole: bool = False,
) -> WeightsFile:
    """Read the weights in a ``.pth`` or safetensors file without running anything in it.

    Parameters
    ----------
    path : str | os.PathLike[str]
        The file. Its format is detected from its bytes, not from its name.
    key : str | None
        Which state dict, where a file has several: ``"model_ema"``, ``"ema.module"``; also what the
        names begin with, ``"state_dict.teacher"``. None looks under the usual names and takes
        averaged weights rather than raw ones, with a `WeightsWarning` where there was a choice.
    strict : bool
        Whether an entry that is no weight (a counter, an index buffer) is an error; otherwise it is
        left out and listed.
    whole : bool
        Whether to read all of a detector or segmentor, the names of its backbone still beginning
        with ``backbone.``, rather than its backbone alone.

    Returns
    -------
    WeightsFile
        With prefixes such as ``backbone.`` and ``module.`` removed, and entries of other parts of a
        bigger network left out.

    Raises
    ------
    CheckpointError
        If the file is missing, no weights file, damaged, larger than it may be, or has an entry
        that is not a tensor of finite floating-point numbers. The message names the file and the
        entry.

    Notes
    -----
    At most 1 s and 1 s per MB of the file, 64 MB and 4 times its size of memory, whatever is in it.
    """
    path = Path(path)
    with opened(path) as file:
        source = _source(file)
        found = find_state_dict(path, source, key)
        names = parameter_names(path, found.entries, found.prefix or "")
        if whole:
            names = names.of_whole(found.entries)
        if len(names.names) > MOST_ENTRIES:
            raise file_error(
                path, f"it has {len(names.names):,} entries; at most {MOST_ENTRIES:,} are read"
            )
        state_dict, not_weights = _read(file, source, found, names, strict)
        architecture = infer_architecture(of_backbone(state_dict))
    weights = WeightsFile(
        path,
        state_dict,
        names.prefix,
        len(found.entries) - len(names.names),
        source.metadata,
        architecture,
        _joined(found.key, names.prefix) if found.prefix else found.key,
        found.averaged or is_averaged(names.prefix),
        (*found.others, *(_joined(found.key, other) for other in names.others)),
        not_weights,
    )
    if weights.other_keys:
        warnings.warn(_choice(weights), WeightsWarning, stacklevel=2)
    if found.unread:
        text = f"its averaged weights ({'; '.join(found.unread)}) are not read: no state dict"
        warnings.warn(about(path, text), WeightsWarning, stacklevel=2)
    return weights


def _choice(weights: WeightsFile) -> str:
    """Say in a line which of the networks in a file was taken."""
    prefix = weights.prefix.removesuffix(".")
    inside = f".{weights.key}".endswith(f".{prefix}")
    taken = weights.key if inside else _joined(weights.key, prefix)
    which = f"of {quoted(taken)}" if taken else "at its top level"
    kind = "the averaged weights" if weights.averaged else "those"
    others = ", ".join(map(quoted, weights.other_keys[:_SHOWN]))
    return about(
        weights.path,
        f"it has weights more than once; {kind} {which} are taken, not {others} "
        "(which key= or --weights-key takes)",
    )


# -- formats --------------------------------------------------------------------------------------


def _source(file: OpenFile) -> WeightsSource:
    return SafetensorsFile(file) if _is_safetensors(file) else open_torch_file(file)


def _is_safetensors(file: OpenFile) -> bool:
    """Whether the file is safetensors (True) or may be torch's (False); an error for all else."""
    path, size = file.path, file.size
    start = file.stream.read(512)
    text = start.lstrip().lower()
    if not start:
        raise file_error(path, "an empty file")
    if start.startswith(b"version https://git-lfs"):
        raise file_error(path, "a Git LFS pointer, not the weights; fetch them with `git lfs pull`")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise file_error(path, "a web page, not weights: the download was answered with a page")
    # Safetensors: the header's length in 8 bytes, which may be any, then the header, which is JSON.
    is_json, header = start[8:9] == b"{", int.from_bytes(start[:8], "little")
    if is_json and header <= size - 8:
        return True
    # A zip archive; or a pickle, which starts with its protocol, as in torch's older format.
    if start.startswith(b"PK") or start[0] == 0x80:
        return False
    if is_json:
        raise file_error(path, f"damaged or cut short (safetensors, but only {size} bytes)")
    if start[257:262] == b"ustar":
        raise file_error(path, "torch.save's tar format of 2017; load and save it with torch again")
    raise file_error(path, f"neither a .pth nor a safetensors file (it starts with {start[:8]!r})")


# -- entries --------------------------------------------------------------------------------------


def _read(
    file: OpenFile, source: WeightsSource, found: StateDict, names: ParameterNames, strict: bool
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the weights by parameter name, and what is no weight and why."""
    layouts: dict[str, Layout] = {}
    not_weights: dict[str, str] = {}
    for key, name in names.names.items():
        if len(key) > LONGEST_NAME or not _is_text(key):
            raise file_error(file.path, f"its entry {quoted(key)} has a name no parameter has")
        try:
            layout = source.layout(found.entries[key])
        except TensorDataError as error:
            raise file_error(file.path, f"cannot use its entry {quoted(key)}: {error}") from error
        except NotWeightsError as error:
            if strict:
                raise file_error(
                    file.path, f"cannot use its entry {quoted(key)}: it {error}"
                ) from error
            not_weights[name] = str(error)
            continue
        if layout.dtype not in WEIGHT_DTYPES:
            kind = str(layout.dtype).removeprefix("torch.")
            reason = f"is {kind}; weights are float16 to float64"
            if strict:
                raise file_error(file.path, f"its entry {quoted(key)} {reason}")
            not_weights[name] = reason
            continue
        layouts[name] = layout
    _check_sizes(file, layouts.values())
    state_dict = {}
    for name, layout in layouts.items():
        tensor = source.tensor(layout)
        bad = count_not_finite(tensor)
        if bad:
            reason = f"has {bad} NaN or infinite values of {tensor.numel()}"
            if strict:
                raise file_error(file.path, f"its entry {quoted(names.prefix + name)} {reason}")
            not_weights[name] = reason
        else:
            state_dict[name] = tensor
    return state_dict, not_weights


def _check_sizes(file: OpenFile, layouts: Collection[Layout]) -> None:
    """Refuse what would take more memory than the file's size allows, before any is taken."""
    allowed = weight_allowance(file.size)
    stored = {layout.storage: layout.storage_bytes for layout in layouts}
    for size in (sum(layout.bytes for layout in layouts), sum(stored.values())):
        if size > allowed:
            raise file_error(
                file.path,
                f"its weights would take {size:,} bytes; at most {allowed:,} are read from a file "
                f"of {file.size:,}",
            )


def count_not_finite(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> int:
    """Return how many values are NaN or infinite, in the tensor's type or once converted."""
    if not tensor.numel():
        return 0
    dtype = dtype or tensor.dtype
    # One quick pass: a NaN is both extremes. The exact count is for the message only.
    if torch.stack(torch.aminmax(tensor)).to(dtype).isfinite().all():
        return 0
    parts = tensor.reshape(-1).split(_CHUNK)
    return sum(int((~part.to(dtype).isfinite()).sum()) for part in parts)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _joined(key: str, prefix: str) -> str:
    """Return the key that reaches into the state dict at `key`, to the names with that prefix."""
    return ".".join(filter(None, (key, prefix.removesuffix("."))))


__all__ = ["CheckpointError", "WeightsFile", "read_state_dict", "read_weights"]
