"""Write the weights of any accepted file as safetensors, with what is known about them."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from .digest import sha256
from .errors import file_error, quoted
from .read import WEIGHT_DTYPES, WeightsFile, count_not_finite, read_weights


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `convert` wrote: the file, its metadata, and the weights as they are in it."""

    path: Path
    metadata: Mapping[str, str]
    weights: WeightsFile


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    key: str | None = None,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Convert a weights file to safetensors.

    Parameters
    ----------
    source : str | os.PathLike[str]
        A ``.pth`` or safetensors file (see `read_weights`).
    target : str | os.PathLike[str]
        The file to write; it appears whole or not at all.
    key : str | None
        Which of several state dicts in `source`, see `read_weights`.
    dtype : torch.dtype | None
        Store in this floating-point type, float16 to float64; None keeps each entry's own.
    overwrite : bool
        Whether `target` may be replaced.

    Returns
    -------
    Conversion
        Its metadata holds the variant, the number of classes, the image size where the file is a
        published one, the source's name and SHA-256, and the key where there was a choice.

    Raises
    ------
    CheckpointError
        If `source` is not a TransNeXt's weights, `target` exists, or values do not fit `dtype`.
    """
    target = Path(target)
    if dtype is not None and dtype not in WEIGHT_DTYPES:
        raise ValueError(f"dtype: got {dtype}, needs one of float16 to float64")
    if target.is_dir():
        raise file_error(target, "a folder; give the name of the file to write")
    if target.exists() and not overwrite:
        raise file_error(target, "exists already; it is replaced only on demand (--force)")
    if not target.parent.is_dir():
        raise file_error(target, f"there is no folder {target.parent} to write it in")
    weights = read_weights(source, key=key)
    if weights.architecture is None:
        raise file_error(source, "its entries are not those of a TransNeXt")
    metadata = describe_weights(weights)
    if key is not None or weights.other_keys:
        metadata["source_key"] = weights.key
    tensors = weights.state_dict
    shared = _shared(tensors)
    for name in tensors:
        # Replaces what was read: both together would take the memory of the file twice.
        tensors[name] = _stored(weights, name, dtype, shared)
    with written_atomically(target) as temporary:
        save_file(tensors, temporary, metadata)
    return Conversion(target, metadata, weights)


def describe_weights(weights: WeightsFile) -> dict[str, str]:
    """Return the metadata that is written beside weights: text by name."""
    architecture = weights.architecture
    if architecture is None:
        raise file_error(weights.path, "its entries are not those of a TransNeXt")
    metadata = {"format": "pt", "family": "transnext", **weights.metadata}
    metadata["num_classes"] = str(architecture.num_classes or 0)
    # Of a file that was converted before, the first source is the one to know.
    if "source_file" not in metadata:
        metadata["source_file"] = weights.path.name
        metadata["source_sha256"] = sha256(weights.path)
    if architecture.variant is not None:
        metadata["variant"] = architecture.variant.name
        for checkpoint in architecture.variant.checkpoints:
            if checkpoint.file == metadata["source_file"]:
                metadata.setdefault("img_size", str(checkpoint.img_size))
                metadata.setdefault("pretrain_size", str(architecture.variant.pretrain_size))
    return metadata


@contextlib.contextmanager
def written_atomically(target: Path) -> Iterator[Path]:
    """Yield a name to write to beside `target`, which replaces `target` if all went well."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _stored(
    weights: WeightsFile, name: str, dtype: torch.dtype | None, shared: Collection[int]
) -> torch.Tensor:
    """Return an entry as it is to be stored: converted, contiguous, and sharing with no other."""
    tensor = weights.state_dict[name]
    if dtype is not None and count_not_finite(tensor, dtype):
        raise file_error(weights.path, f"its entry {quoted(name)} has values too large for {dtype}")
    result = tensor.to(dtype or tensor.dtype).contiguous()
    is_view = result.untyped_storage().data_ptr() in shared
    return result.clone() if is_view else result


def _shared(tensors: Mapping[str, torch.Tensor]) -> set[int]:
    """Return the addresses of the storages that several tensors share."""
    counts = Counter(tensor.untyped_storage().data_ptr() for tensor in tensors.values())
    return {address for address, count in counts.items() if count > 1}
