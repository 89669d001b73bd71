"""The weights that a run exports: safetensors in full and half precision."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from ..checkpoints import read_weights
from ..checkpoints.convert import describe_weights
from .durable import written_durably

__all__ = ["export_half", "export_weights"]


def export_weights(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write the entries of `state` as they are.

    Raises
    ------
    RunFileError
        The file cannot be written.
    """
    _write(path, save(state, {"format": "pt", **metadata}))


def export_half(weights: Path, path: Path) -> None:
    """Write the weights in the file `weights` as float16, with what is known about them.

    Raises
    ------
    ValueError
        A weight is too large for float16.
    RunFileError
        The file cannot be written.
    """
    read = read_weights(weights)
    state = {name: value.half().contiguous() for name, value in read.state_dict.items()}
    for name, value in state.items():
        if not value.isfinite().all():
            raise ValueError(
                f"{path}: {name!r} has values too large for float16: give --no-float16"
            )
    _write(path, save(state, describe_weights(read)))


def _write(path: Path, content: bytes) -> None:
    with written_durably(path) as file:
        file.write(_in_order(content))


def _in_order(content: bytes) -> bytes:
    """Return a safetensors file with its header's entries ordered by name.

    Equal weights then are equal files: the library writes the metadata in another order every time.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":"))
    padded = header.encode() + b" " * (-len(header.encode()) % 8)
    return len(padded).to_bytes(8, "little") + padded + content[8 + length :]
