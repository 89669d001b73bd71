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

import io
import math
import mmap
import os
import struct
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import torch

from .errors import CheckpointError, file_error
from .pickle_data import Call, Name, PersistentId, PickleDataError, read_pickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_LARGEST = 2**62  # of any size in a file: no address is larger
_MAX_DIMENSIONS = 64

_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": torch.uint8,
}
_STORAGE_MODULES = ("torch", "torch.storage", "torch.cuda")

# Arguments: storage, offset, shape, stride, ...; the seventh of v2: conjugate and negative bits.
_REBUILD_V1 = Name("torch._utils", "_rebuild_tensor")
_REBUILD_V2 = Name("torch._utils", "_rebuild_tensor_v2")
# For element types without a storage class of their own: unsigned integers and 8-bit floats.
_REBUILD_V3 = Name("torch._utils", "_rebuild_tensor_v3")
# Their first argument is the tensor.
_REBUILD_PARAMETER = (
    Name("torch._utils", "_rebuild_parameter"),
    Name("torch._utils", "_rebuild_parameter_with_state"),
)
_REBUILD = (_REBUILD_V1, _REBUILD_V2, _REBUILD_V3, *_REBUILD_PARAMETER)


class TensorDataError(ValueError):
    """An entry is not a tensor this reader can make; the message says why."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage as the pickle describes it: elements ``offset .. offset + count`` of a record."""

    dtype: torch.dtype
    key: str
    offset: int
    count: int


class _Records(Protocol):
    def read(self, key: str) -> bytearray:
        """Return the bytes of storage `key`; `TensorDataError` if there is none."""


class TorchFile:
    """An open file of `torch.save`.

    Attributes
    ----------
    root
        The pickled object as data (see `pickle_data.read_pickle`); tensors are `Call` objects.
    """

    def __init__(self, root: Any, records: _Records, byte_order: str) -> None:
        self.root = root
        self._records = records
        self._byte_order = byte_order
        # Tensors may share a storage (tied weights): it is read once.
        self._read: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    @staticmethod
    def is_tensor(value: object) -> bool:
        """Whether `value` describes a tensor (which may still turn out to be a broken one)."""
        return isinstance(value, Call) and value.function in _REBUILD

    def tensor(self, value: object) -> torch.Tensor:
        """Return the tensor that `value`, a part of `root`, describes.

        Raises
        ------
        TensorDataError
            If `value` is no tensor, or its sizes do not fit the bytes in the file.
        """
        storage, offset, shape, stride = _layout(value)
        elements = self._elements(storage)
        count = math.prod(shape)
        last = offset + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
        # The count too: with a stride of 0 one element would do for a tensor of any size.
        if count and max(last + 1, count) > elements.numel():
            raise TensorDataError(
                f"its shape {list(shape)} does not fit its storage of {elements.numel()} elements"
            )
        if not count:
            return elements.new_empty(shape)
        return elements.as_strided(shape, stride, elements.storage_offset() + offset)

    def _elements(self, storage: Storage) -> torch.Tensor:
        """Return the elements of `storage` as a 1-d tensor."""
        whole = self._read.get((storage.key, storage.dtype))
        if whole is None:
            data = self._records.read(storage.key)
            if len(data) % storage.dtype.itemsize:
                raise TensorDataError(f"its {len(data)} bytes are not whole {storage.dtype}s")
            whole = torch.empty(0, dtype=storage.dtype)
            if data:
                whole = torch.frombuffer(data, dtype=storage.dtype)
            if self._byte_order != sys.byteorder:
                whole.untyped_storage().byteswap(storage.dtype)
            self._read[storage.key, storage.dtype] = whole
        if storage.offset + storage.count > whole.numel():
            raise TensorDataError(
                f"the file has {whole.numel()} elements for it, not {storage.count}"
            )
        return whole[storage.offset : storage.offset + storage.count]


def _layout(value: object) -> tuple[Storage, int, tuple[int, ...], tuple[int, ...]]:
    """Return (storage, offset, shape, stride) of a described tensor, checked one by one."""
    if isinstance(value, Call) and value.function in _REBUILD_PARAMETER and value.arguments:
        value = value.arguments[0]
    if isinstance(value, Call) and value.function == _REBUILD_V3:
        raise TensorDataError("its element type is not one of float16 to float64")
    if not (isinstance(value, Call) and value.function in (_REBUILD_V1, _REBUILD_V2)):
        raise TensorDataError(f"it is {describe(value)}, not a tensor")
    if len(value.arguments) < 4:
        raise TensorDataError("its shape is missing")
    storage, offset, shape, stride = value.arguments[:4]
    if not isinstance(storage, Storage):
        raise TensorDataError("its storage is not one that torch.save writes")
    if not (_is_size(offset) and _are_sizes(shape) and _are_sizes(stride)):
        raise TensorDataError("its offset, shape or stride are not sizes")
    if len(shape) != len(stride):
        raise TensorDataError(f"it has {len(shape)} dimensions but {len(stride)} strides")
    if len(value.arguments) > 6 and value.arguments[6]:
        raise TensorDataError(
            "it is stored as the conjugate or negative of its data; save a plain copy of it"
        )
    return storage, offset, tuple(shape), tuple(stride)


def _is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _LARGEST


def _are_sizes(value: object) -> TypeGuard[Sequence[int]]:
    return (
        isinstance(value, (tuple, list))
        and len(value) <= _MAX_DIMENSIONS
        and all(map(_is_size, value))
    )


def describe(value: object) -> str:
    """Say in a few words what a piece of pickled data is, for error messages."""
    if isinstance(value, Call):
        name = str(value.function) if isinstance(value.function, Name) else "something unnamed"
        return f"an object made by {name[:80]} (not run)"
    if isinstance(value, Name):
        return f"a reference to {str(value)[:80]} (not followed)"
    if value is None:
        return "None"
    return f"of type {type(value).__name__}"


def _storage(value: object) -> object:
    """Return the `Storage` for a persistent id of torch, or a `PersistentId` if it is none.

    The id is ``("storage", type, key, device, count)``; the older format adds None or ``(view key,
    offset, count)``.
    """
    if not (isinstance(value, tuple) and len(value) in (5, 6) and value[0] == "storage"):
        return PersistentId(value)
    kind, key, _device, count = value[1:5]
    dtype = None
    if isinstance(kind, Name) and kind.module in _STORAGE_MODULES:
        dtype = _STORAGE_DTYPES.get(kind.name)
    if dtype is None or not isinstance(key, str) or not _is_size(count):
        return PersistentId(value)
    view = value[5] if len(value) == 6 else None
    if view is None:
        return Storage(dtype, key, 0, count)
    if isinstance(view, tuple) and len(view) == 3 and _is_size(view[1]) and _is_size(view[2]):
        return Storage(dtype, key, view[1], view[2])
    return PersistentId(value)


@contextmanager
def open_torch_file(path: str | os.PathLike[str]) -> Iterator[TorchFile]:
    """Open a file written by `torch.save`, of either format.

    Raises
    ------
    CheckpointError
        If it is not such a file, is damaged, or is a format that cannot be read without running it.
    """
    with open(path, "rb") as file:
        start = file.read(4)
    try:
        if start.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                yield _open_zip(path, archive)
        else:
            with (
                open(path, "rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                yield _open_legacy(path, data)
    except CheckpointError:
        raise
    # zipfile meets damaged headers with any of these.
    except (
        zipfile.BadZipFile,
        ValueError,
        EOFError,
        OSError,
        OverflowError,
        RuntimeError,
        struct.error,
    ) as error:
        raise file_error(path, f"damaged or cut short ({error})") from error


# -- the zip format -------------------------------------------------------------------------------


def _open_zip(path: str | os.PathLike[str], archive: zipfile.ZipFile) -> TorchFile:
    entries = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise file_error(
            path, "a zip archive, but not one that torch.save wrote (no data.pkl in it)"
        )
    folder = pickles[0].partition("/")[0]
    if f"{folder}/constants.pkl" in entries:
        raise file_error(
            path,
            "a TorchScript archive, which is a program, not weights; save its state_dict() instead",
        )
    if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
        raise file_error(
            path, "a compressed zip archive; torch.save does not compress, so unpack it first"
        )
    if sum(info.file_size for info in entries.values()) > os.path.getsize(path):
        raise file_error(path, "damaged: its records claim more bytes than the file has")
    order = b"little"
    if f"{folder}/byteorder" in entries:
        order = archive.read(entries[f"{folder}/byteorder"])
    if order not in (b"little", b"big"):
        raise file_error(path, f"damaged: its byte order is {order[:16]!r}")
    commands = _Commands(path)
    root = read_pickle(io.BytesIO(archive.read(entries[pickles[0]])), _storage, commands.note)
    commands.refuse()
    return TorchFile(root, _ZipRecords(archive, entries, folder), order.decode())


class _ZipRecords:
    def __init__(
        self, archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo], folder: str
    ) -> None:
        self._archive = archive
        self._entries = entries
        self._folder = folder

    def read(self, key: str) -> bytearray:
        info = self._entries.get(f"{self._folder}/data/{key}")
        if info is None:
            raise TensorDataError(f"the file has no record {key[:80]!r} for it")
        return bytearray(self._archive.read(info))  # which also compares the record's checksum


# -- the older format -----------------------------------------------------------------------------


# What no weights file has a use for calling: it acts on the machine or runs code. Left out is what
# training libraries do leave in their files, such as `getattr` for a bound method.
_COMMAND_MODULES = frozenset(
    (
        "asyncio", "cProfile", "commands", "ctypes", "importlib", "multiprocessing", "nt", "os",
        "pdb", "pip", "posix", "profile", "pty", "runpy", "shutil", "signal", "socket",
        "subprocess", "sys", "timeit", "urllib", "webbrowser",
    )
)  # fmt: skip
_COMMAND_BUILTINS = frozenset(
    ["__import__", "breakpoint", "compile", "eval", "exec", "execfile", "input", "open"]
)


class _Commands:
    """Watches for calls that only a file made to do harm has; none is ever made here."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._found: Name | None = None

    def note(self, function: object) -> None:
        if not isinstance(function, Name):
            return
        package = function.module.split(".")[0]
        if package in _COMMAND_MODULES or (
            package in ("builtins", "__builtin__") and function.name in _COMMAND_BUILTINS
        ):
            self._found = self._found or function

    def refuse(self) -> None:
        """Raise CheckpointError if there was such a call."""
        if self._found is not None:
            raise file_error(
                self._path,
                f"malicious: whoever unpickles it runs {str(self._found)[:80]} (not run here), "
                "which no weights file has a use for; get the weights from their publisher",
            )


def _open_legacy(path: str | os.PathLike[str], data: mmap.mmap) -> TorchFile:
    commands = _Commands(path)
    if read_pickle(data) != LEGACY_MAGIC:
        raise file_error(path, "a pickle, but not one that torch.save wrote")
    if read_pickle(data) != _LEGACY_VERSION:
        raise file_error(path, "written by torch.save in a version of its format that is not known")
    # About the machine it was written on; the storages are little-endian on all.
    read_pickle(data, called=commands.note)
    sizes: dict[str, int] = {}

    def storage(value: object) -> object:
        result = _storage(value)
        if isinstance(result, Storage):
            sizes[result.key] = result.dtype.itemsize
        return result

    root = read_pickle(data, storage, commands.note)
    keys = read_pickle(data, called=commands.note)
    commands.refuse()
    if not isinstance(keys, list):
        raise PickleDataError("no list of storages")
    return TorchFile(root, _LegacyRecords(data, keys, sizes), "little")


class _LegacyRecords:
    """The storages one after the other; the element sizes needed to find them are in the pickle."""

    def __init__(self, data: mmap.mmap, keys: list[object], sizes: Mapping[str, int]) -> None:
        self._data = data
        self._spans: dict[object, tuple[int, int]] = {}
        position = data.tell()
        for key in keys:
            size = sizes.get(key) if isinstance(key, str) else None
            header = data[position : position + 8]
            if size is None or len(header) < 8:
                raise PickleDataError("the list of storages does not match the file")
            start = position + 8
            position = start + size * int.from_bytes(header, "little")
            if position > len(data):
                raise PickleDataError("the file ends inside its storages")
            self._spans[key] = (start, position)

    def read(self, key: str) -> bytearray:
        if key not in self._spans:
            raise TensorDataError(f"the file has no storage {key[:80]!r} for it")
        start, end = self._spans[key]
        return bytearray(self._data[start:end])
