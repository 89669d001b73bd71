"""Write the weights of any accepted file as safetensors, with what is known about them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from .errors import CheckpointError, file_error
from .read import WeightsFile, read_weights


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `convert` wrote: the file, its metadata, and the weights it read."""

    path: Path
    metadata: Mapping[str, str]
    weights: WeightsFile


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Convert a weights file to safetensors.

    Parameters
    ----------
    source
        A ``.pth`` or safetensors file (see `read_weights`).
    target
        The file to write; it appears whole or not at all.
    dtype
        Store in this floating-point type; None keeps each entry's own.
    overwrite
        Whether `target` may be replaced.

    Returns
    -------
    Conversion
        Its metadata holds the variant, the number of classes, the image size where the file is a
        published one, the source's name and SHA-256.

    Raises
    ------
    CheckpointError
        If `source` is not a TransNeXt's weights, `target` exists, or values do not fit `dtype`.
    """
    target = Path(target)
    if target.is_dir():
        raise file_error(target, "a folder; give the name of the file to write")
    if target.exists() and not overwrite:
        raise file_error(target, "exists already; it is replaced only on demand (--force)")
    if not target.parent.is_dir():
        raise file_error(target, f"there is no folder {target.parent} to write it in")
    weights = read_weights(source)
    if weights.architecture is None:
        raise file_error(source, "its entries are not those of a TransNeXt")
    metadata = describe_weights(weights)
    tensors = {
        name: _stored(weights, name, tensor, dtype) for name, tensor in weights.state_dict.items()
    }
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
        metadata["source_sha256"] = _sha256(weights.path)
    if architecture.variant is not None:
        metadata["variant"] = architecture.variant.name
        for checkpoint in architecture.variant.checkpoints:
            if checkpoint.file == metadata["source_file"]:
                metadata.setdefault("img_size", str(checkpoint.img_size))
                metadata.setdefault("pretrain_size", str(architecture.variant.pretrain_size))
    return metadata


@contextlib.contextmanager
def written_atomically(target: Path) -> Iterator[Path]:
    """Yield a name to write to beside `target`, which takes `target`'s place if all went well."""
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
    weights: WeightsFile, name: str, tensor: torch.Tensor, dtype: torch.dtype | None
) -> torch.Tensor:
    result = tensor.to(dtype) if dtype is not None else tensor
    if not result.isfinite().all():
        raise CheckpointError(
            f"{weights.path}: its entry {name!r} has values too large for {dtype}"
        )
    return result.contiguous().clone()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
