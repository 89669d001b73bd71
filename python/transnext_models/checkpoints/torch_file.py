"""Read the two file formats of `torch.save` as data, without torch's unpickler.

The zip format (torch >= 1.6) holds ``<name>/data.pkl`` and one uncompressed record
``<name>/data/<key>`` per storage. The older format is a row of pickles (magic number, version,
system, the object, the storage keys) followed by the storages, each as an 8-byte element count and
its bytes.

`torch.load` is not used: with any other pickle module than its own it also runs TorchScript
archives, unpacks tar files, and reserves the memory that the older format claims to need before it
looks for the bytes. Here every size is checked against what is really there before a tensor is
made, and a tensor that nobody asks for (an optimiser's state, two thirds of a training checkpoint)
is never read.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from .commands import Commands
from .errors import file_error
from .limits import pickle_allowance
from .opened import OpenFile
from .pickle_data import Allowance, read_pickle
from .pickle_values import Call, PickleDataError, PickleTooLargeError
from .run_metadata import run_metadata
from .tensors import Layout, TensorDataError
from .torch_archive import ZipRecords
from .torch_tensors import Storage, describe, is_tensor, rebuilt, storage_of

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001


class _Records(Protocol):
    def size(self, key: str) -> int:
        """Return how many bytes storage `key` has; `TensorDataError` if there is none."""

    def read(self, key: str) -> bytearray:
        """Return the bytes of storage `key`."""


class TorchFile:
    """An open file of `torch.save`; a `WeightsSource`.

    Attributes
    ----------
    root : Any
        The pickled object as data (see `pickle_data.read_pickle`); tensors are `Call` objects.
    """

    is_flat = False

    def __init__(self, root: Any, records: _Records, byte_order: str) -> None:
        self.root = root
        self.metadata: Mapping[str, str] = run_metadata(root)
        self._records = records
        self._byte_order = byte_order
        # Tensors may share a storage (tied weights), of one type: it is read once.
        self._dtypes: dict[str, torch.dtype] = {}
        self._read: dict[str, torch.Tensor] = {}

    def is_tensor(self, value: object) -> bool:
        """See `WeightsSource.is_tensor`."""
        return is_tensor(value)

    def is_object(self, value: object) -> bool:
        """See `WeightsSource.is_object`."""
        return isinstance(value, Call) and not is_tensor(value)

    def describe(self, value: object) -> str:
        """See `WeightsSource.describe`."""
        return describe(value)

    def layout(self, value: object) -> Layout:
        """See `WeightsSource.layout`."""
        parts = rebuilt(value)
        storage, dtype = parts.storage, parts.storage.dtype
        size = self._records.size(storage.key)
        if size % dtype.itemsize:
            raise TensorDataError(f"its {size} bytes are not whole {dtype}s")
        if storage.offset + storage.count > size // dtype.itemsize:
            raise TensorDataError(
                f"the file has {size // dtype.itemsize} elements for it, not {storage.count}"
            )
        if self._dtypes.setdefault(storage.key, dtype) != dtype:
            raise TensorDataError("its storage is also used as numbers of another type")
        offset = storage.offset + parts.offset
        layout = Layout(dtype, parts.shape, parts.stride, offset, storage.key, size)
        # The count too: with a stride of 0 one element would do for a tensor of any size.
        if layout.count and max(parts.last + 1, layout.count) > storage.count:
            raise TensorDataError(
                f"its shape {list(parts.shape)} does not fit its storage of {storage.count} "
                "elements"
            )
        return layout

    def tensor(self, layout: Layout) -> torch.Tensor:
        """See `WeightsSource.tensor`."""
        if not layout.count:
            return torch.empty(layout.shape, dtype=layout.dtype)
        whole = self._read.get(layout.storage)
        if whole is None:
            data = self._records.read(layout.storage)
            whole = torch.frombuffer(data, dtype=layout.dtype)
            if self._byte_order != sys.byteorder:
                whole.untyped_storage().byteswap(layout.dtype)
            self._read[layout.storage] = whole
        return whole.as_strided(layout.shape, layout.stride, layout.offset)


def open_torch_file(file: OpenFile) -> TorchFile:
    """Read the pickles of a file written by `torch.save`, of either format.

    Raises
    ------
    CheckpointError, and what `opened` turns into one
        If it is not such a file, is damaged, or is a format that cannot be read without running it.
    """
    try:
        file.stream.seek(0)
        is_zip = file.stream.read(2) == b"PK"
        file.stream.seek(0)
        return _open_zip(file) if is_zip else _open_legacy(file)
    except PickleTooLargeError as error:
        raise file_error(file.path, str(error)) from error


def _open_zip(file: OpenFile) -> TorchFile:
    records = ZipRecords(file)
    commands = Commands(file.path)
    allowance = Allowance(pickle_allowance(file.size))
    root = read_pickle(records.pickle(), storage_of, commands.note, allowance)
    commands.refuse()
    return TorchFile(root, records, records.byte_order)


def _open_legacy(file: OpenFile) -> TorchFile:
    stream, commands = file.stream, Commands(file.path)
    allowance = Allowance(pickle_allowance(file.size))
    if _plain(read_pickle(stream, allowance=allowance)) != _LEGACY_MAGIC:
        raise file_error(file.path, "a pickle, but not one that torch.save wrote")
    if _plain(read_pickle(stream, allowance=allowance)) != _LEGACY_VERSION:
        raise file_error(
            file.path, "written by torch.save in a version of its format that is not known"
        )
    # About the machine it was written on; the storages are little-endian on all.
    read_pickle(stream, called=commands.note, allowance=allowance)
    sizes: dict[str, int] = {}

    def storage(value: object) -> object:
        result = storage_of(value)
        if isinstance(result, Storage):
            sizes[result.key] = result.dtype.itemsize
        return result

    root = read_pickle(stream, storage, commands.note, allowance)
    keys = read_pickle(stream, called=commands.note, allowance=allowance)
    commands.refuse()
    if not isinstance(keys, list):
        raise PickleDataError("no list of storages")
    return TorchFile(root, _LegacyRecords(file, keys, sizes), "little")


def _plain(value: object) -> int | None:
    return value if type(value) is int else None


class _LegacyRecords:
    """The storages one after the other; the element sizes needed to find them are in the pickle."""

    def __init__(self, file: OpenFile, keys: list[object], sizes: Mapping[str, int]) -> None:
        self._file = file
        self._spans: dict[str, tuple[int, int]] = {}
        position = file.stream.tell()
        for key in keys:
            size = sizes.get(key) if isinstance(key, str) else None
            if not isinstance(key, str) or size is None or key in self._spans:
                raise PickleDataError("the list of storages does not match the file")
            length = size * int.from_bytes(file.bytes_at(position, 8), "little")
            position += 8
            if position + length > file.size:
                raise PickleDataError("the file ends inside its storages")
            self._spans[key] = (position, length)
            position += length

    def size(self, key: str) -> int:
        if key not in self._spans:
            raise TensorDataError(f"the file has no storage {key!r} for it")
        return self._spans[key][1]

    def read(self, key: str) -> bytearray:
        return self._file.bytes_at(*self._spans[key])
