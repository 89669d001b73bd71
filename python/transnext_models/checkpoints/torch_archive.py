"""The zip archive that `torch.save` writes: a pickle, and a record for each storage."""

from __future__ import annotations

import io
import zipfile
from typing import IO, cast

from .errors import file_error
from .limits import MOST_DIRECTORY_BYTES
from .opened import OpenFile
from .tensors import TensorDataError

_CHUNK = 1 << 20
_BYTE_ORDERS = {b"little": "little", b"big": "big"}
_LONGEST_BYTE_ORDER = 16
_ENCRYPTED = 1


class ZipRecords:
    """The records of an archive, each read whole and compared with its checksum.

    Attributes
    ----------
    byte_order
        Of the numbers in it: ``little`` or ``big``.
    """

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._archive = zipfile.ZipFile(cast(IO[bytes], _Directory(file)))
        self._entries = {info.filename: info for info in self._archive.infolist()}
        pickles = [
            name for name in self._entries if name.endswith("/data.pkl") and name.count("/") == 1
        ]
        if len(pickles) != 1:
            raise file_error(
                file.path, "a zip archive, but not one that torch.save wrote (no data.pkl in it)"
            )
        self._pickle = pickles[0]
        self._folder = self._pickle.partition("/")[0]
        self._refuse_what_torch_does_not_write()
        self.byte_order = self._byte_order()

    def pickle(self) -> io.BytesIO:
        """Return the pickle."""
        return io.BytesIO(self._content(self._entries[self._pickle]))

    def size(self, key: str) -> int:
        """Return how many bytes the storage called `key` has."""
        return self._storage(key).file_size

    def read(self, key: str) -> bytearray:
        """Return the bytes of the storage called `key`."""
        return self._content(self._storage(key))

    def _storage(self, key: str) -> zipfile.ZipInfo:
        info = self._entries.get(f"{self._folder}/data/{key}")
        if info is None:
            raise TensorDataError(f"the file has no record {key!r} for it")
        return info

    def _content(self, info: zipfile.ZipInfo) -> bytearray:
        data = bytearray(info.file_size)
        view, done = memoryview(data), 0
        with self._archive.open(info) as record:  # which compares the checksum at the end
            while part := record.read(_CHUNK):
                view[done : done + len(part)] = part
                done += len(part)
        if done != len(data):
            raise file_error(self._file.path, "damaged or cut short (a record ends early)")
        return data

    def _refuse_what_torch_does_not_write(self) -> None:
        path, entries = self._file.path, self._entries
        if f"{self._folder}/constants.pkl" in entries:
            raise file_error(
                path,
                "a TorchScript archive, which is a program, not weights; "
                "save its state_dict() instead",
            )
        if any(info.flag_bits & _ENCRYPTED for info in entries.values()):
            raise file_error(path, "an encrypted zip archive; torch.save does not encrypt")
        if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
            raise file_error(
                path,
                "a compressed zip archive; torch.save does not compress, so unpack it first",
            )
        if sum(info.file_size for info in entries.values()) > self._file.size:
            raise file_error(path, "damaged: its records claim more bytes than the file has")

    def _byte_order(self) -> str:
        info = self._entries.get(f"{self._folder}/byteorder")
        if info is None:
            return "little"
        order = bytes(self._content(info)) if info.file_size <= _LONGEST_BYTE_ORDER else b"?"
        if order not in _BYTE_ORDERS:
            raise file_error(self._file.path, f"damaged: its byte order is {order!r}")
        return _BYTE_ORDERS[order]


class _Directory:
    """The file as `zipfile` sees it, which reads an archive's directory whole, however large."""

    def __init__(self, file: OpenFile) -> None:
        self._path, self._stream = file.path, file.stream
        self.seek, self.tell = file.stream.seek, file.stream.tell
        self.seekable = file.stream.seekable

    def read(self, size: int = -1) -> bytes:
        if size > MOST_DIRECTORY_BYTES:
            raise file_error(self._path, "its zip directory is larger than that of any TransNeXt")
        # Without a size zipfile reads an archive's comment, 64 KB at the most.
        return self._stream.read(size if size >= 0 else MOST_DIRECTORY_BYTES)
