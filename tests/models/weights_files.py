"""Weights files as torch.save writes them, and objects that a reader must not make."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

FORMATS = ("zip", "legacy")


def save(value: Any, path: Path, form: str = "zip", protocol: int = 2) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=form == "zip", pickle_protocol=protocol)
    return path


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert list(left) == list(right)
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype
        assert torch.equal(tensor, right[name])


class MessageHub:
    """Stands for a training library's class, unknown to whoever reads the file."""

    def __init__(self) -> None:
        self.history = {"loss": [1.0, 2.0]}


def zip_records(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def write_zip(path: Path, records: dict[str, bytes], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return path
