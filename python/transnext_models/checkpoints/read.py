"""Find the weights in a file: which format it is, which part of it is the state dict, which keys.

Accepted are safetensors files, and files of `torch.save` that hold a state dict itself,
``{"model": state_dict, "args": ..., "optimizer": ...}`` or MMEngine's
``{"state_dict": {"backbone.…": …, "neck.…": …}, "meta": …}``. None is ever run (see `torch_file`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .architecture import Architecture, infer_architecture
from .errors import CheckpointError, file_error
from .torch_file import TensorDataError, TorchFile, describe, open_torch_file

# Where training programs keep the state dict.
_STATE_DICT_KEYS = ("state_dict", "model", "module")
# What they put before its names: a detector's backbone, DataParallel, Lightning, torch.compile.
_WRAPPERS = {"backbone", "module", "model", "_orig_mod"}
# The first parameter of every TransNeXt: whatever precedes it precedes all.
_ANCHOR = "patch_embed1.proj.weight"
_SHOWN = 4
_WEIGHT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """The weights in one file.

    Attributes
    ----------
    path
        The file.
    state_dict
        The parameters by the names of `TransNeXt`, on the CPU, in the file's floating-point types.
    prefix
        What stood before the names in the file, such as ``backbone.``; "" if nothing.
    left_out
        How many entries had another prefix (the neck and heads of a detector, say).
    metadata
        The text entries of a safetensors file's header.
    architecture
        What the shapes say; None if they are no TransNeXt's.
    """

    path: Path
    state_dict: dict[str, torch.Tensor]
    prefix: str = ""
    left_out: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    architecture: Architecture | None = None


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Return the weights in `path` by parameter name, on the CPU; see `read_weights`."""
    return read_weights(path).state_dict


def read_weights(path: str | os.PathLike[str]) -> WeightsFile:
    """Read the weights in a ``.pth`` or safetensors file without running anything in it.

    Parameters
    ----------
    path
        The file. Its format is told from its bytes, not from its name.

    Returns
    -------
    WeightsFile
        With prefixes such as ``backbone.`` and ``module.`` removed, and entries of other parts of a
        bigger network left out.

    Raises
    ------
    CheckpointError
        If the file is missing, no weights file, damaged, or has an entry that is not a tensor of
        finite floating-point numbers. The message names the file and the entry.
    """
    path = Path(path)
    if _is_safetensors(path):
        entries, metadata = _read_safetensors(path)
        prefix, names = _parameter_names(path, entries)
        state_dict = {names[key]: entries[key] for key in names}
    else:
        with open_torch_file(path) as file:
            entries, metadata = _find_state_dict(path, file), {}
            prefix, names = _parameter_names(path, entries)
            state_dict = {names[key]: _tensor(path, file, key, entries[key]) for key in names}
    for name, tensor in state_dict.items():
        _check_numbers(path, prefix + name, tensor)
    architecture = infer_architecture(state_dict)
    return WeightsFile(path, state_dict, prefix, len(entries) - len(names), metadata, architecture)


# -- formats --------------------------------------------------------------------------------------


def _is_safetensors(path: Path) -> bool:
    """Whether the file is safetensors (True) or may be torch's (False); an error for all else."""
    if path.is_dir():
        raise file_error(path, "a folder; give one weights file (.pth or .safetensors)")
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError as error:
        raise file_error(path, f"cannot be read ({error.strerror or error})") from error
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


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = file.keys()
            entries = {key: file.get_tensor(key) for key in names}
            return entries, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise file_error(path, f"damaged or cut short (safetensors: {error})") from error


def _find_state_dict(path: Path, file: TorchFile) -> dict[str, Any]:
    root = file.root
    if not isinstance(root, dict):
        raise file_error(path, f"it holds no state dict: it is {describe(root)}")
    found: Any = root
    if not any(map(file.is_tensor, root.values())):
        present = [key for key in _STATE_DICT_KEYS if key in root]
        if not present:
            keys = ", ".join(repr(key)[:60] for key in list(root)[:_SHOWN]) or "nothing"
            raise file_error(path, f"it holds no state dict; at its top level are {keys}")
        found = root[present[0]]
        if not isinstance(found, dict):
            raise file_error(
                path, f"its {present[0]!r} is {describe(found)}; save model.state_dict() instead"
            )
    if not found or not all(isinstance(key, str) for key in found):
        raise file_error(path, "its state dict is empty or has entries without a name")
    return found


def _tensor(path: Path, file: TorchFile, key: str, value: object) -> torch.Tensor:
    try:
        return file.tensor(value)
    except TensorDataError as error:
        raise file_error(path, f"cannot use its entry {key!r}: {error}") from error


# -- names and numbers ----------------------------------------------------------------------------


def _parameter_names(path: Path, entries: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Return the prefix of the network in `entries`, and its parameter's name for each key."""
    prefixes = [
        key[: -len(_ANCHOR)] for key in entries if key == _ANCHOR or key.endswith(f".{_ANCHOR}")
    ]
    known = [prefix for prefix in prefixes if set(prefix.split(".")[:-1]) <= _WRAPPERS]
    if len(prefixes) > 1 and not known:
        raise file_error(path, f"it has several TransNeXts: {', '.join(sorted(prefixes))}")
    prefix = min(known or prefixes or [""], key=len)
    names = {key: key[len(prefix) :] for key in entries if key.startswith(prefix)}
    return prefix, names


def _check_numbers(path: Path, key: str, tensor: torch.Tensor) -> None:
    if tensor.dtype not in _WEIGHT_DTYPES:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise file_error(path, f"its entry {key!r} is {kind}; weights are float16 to float64")
    # One quick pass: a NaN or infinity makes the sum one. The exact count is for the message only.
    if math.isfinite(tensor.sum(dtype=torch.float64)):
        return
    bad = tensor.numel() - int(tensor.isfinite().sum())
    if bad:
        raise file_error(
            path, f"its entry {key!r} has {bad} NaN or infinite values of {tensor.numel()}"
        )


__all__ = ["CheckpointError", "WeightsFile", "read_state_dict", "read_weights"]
