"""Read safetensors: the length of a header, the header in JSON, and the tensors' bytes.

The library `safetensors` maps the file into memory. A mapped file that someone shortens or
overwrites (a training run, a download) ends or changes the process that reads it, and the weights
of a file can then not be saved to it again. So this reads, and holds the header to limits first;
the tests hold it to the library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .errors import file_error, quoted
from .limits import MOST_HEADER_BRACKETS, MOST_HEADER_BYTES, count_elements
from .opened import OpenFile
from .tensors import Layout, NotWeightsError, TensorDataError

_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}
# Of types that not every PyTorch has, their bits; the header is checked against them nevertheless.
_OTHER_BITS = {"F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}
_LONGEST_INTEGER = 20  # digits


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor as the header describes it: its bytes lie from `begin` to `end`."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """An open safetensors file; a `WeightsSource`."""

    is_flat = True

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        length = int.from_bytes(file.bytes_at(0, _LENGTH_BYTES), "little")
        if length > MOST_HEADER_BYTES:
            raise file_error(
                file.path, f"its header of {length:,} bytes is larger than any of a TransNeXt"
            )
        self._start = _LENGTH_BYTES + length
        header = _parse_header(file, bytes(file.bytes_at(_LENGTH_BYTES, length)))
        self.metadata = _metadata(file, header.pop(_METADATA, None))
        self.root: dict[str, Any] = {}
        for name, value in header.items():
            try:
                self.root[name] = _entry(value)
            except TensorDataError as error:
                text = f"cannot use its entry {quoted(name)}: {error}"
                raise file_error(file.path, text) from error
        self._check_spans()

    def is_tensor(self, value: object) -> bool:
        """See `WeightsSource.is_tensor`."""
        return isinstance(value, _Entry)

    def is_object(self, value: object) -> bool:
        """See `WeightsSource.is_object`."""
        return False

    def describe(self, value: object) -> str:
        """See `WeightsSource.describe`."""
        return f"of type {type(value).__name__}"

    def layout(self, value: Any) -> Layout:
        """See `WeightsSource.layout`."""
        dtype = _DTYPES.get(value.dtype)
        if dtype is None:
            raise NotWeightsError(f"is {value.dtype}; weights are float16 to float64")
        stride = [1]
        for length in value.shape[:0:-1]:
            stride.append(stride[-1] * max(length, 1))
        strides = tuple(stride[::-1][: len(value.shape)])
        storage = f"{value.begin}:{value.end}"
        return Layout(dtype, value.shape, strides, 0, storage, value.end - value.begin)

    def tensor(self, layout: Layout) -> torch.Tensor:
        """See `WeightsSource.tensor`."""
        begin, _, _ = layout.storage.partition(":")
        data = self._file.bytes_at(self._start + int(begin), layout.storage_bytes)
        if not data:
            return torch.empty(layout.shape, dtype=layout.dtype)
        # The format is little-endian, as is every machine that PyTorch is built for but one.
        return torch.frombuffer(data, dtype=layout.dtype).reshape(layout.shape)

    def _check_spans(self) -> None:
        """Compare the tensors' bytes with the file's: they must cover them without a gap."""
        position = 0
        spans = sorted((entry.begin, entry.end, name) for name, entry in self.root.items())
        for begin, end, name in spans:
            if begin != position:
                raise file_error(
                    self._file.path,
                    f"damaged: its entry {quoted(name)} begins at byte {begin} of the tensors, "
                    f"not where the one before ends ({position})",
                )
            position = end
        there = self._file.size - self._start
        if position != there:
            raise file_error(
                self._file.path,
                f"damaged or cut short (its tensors have {position} bytes, the file {there})",
            )


def _parse_header(file: OpenFile, data: bytes) -> dict[str, Any]:
    if data.count(b"[") + data.count(b"{") > MOST_HEADER_BRACKETS:
        raise file_error(file.path, "its header has more parts than that of any TransNeXt")
    try:
        header = json.loads(
            data.decode("utf-8"), object_pairs_hook=_without_twins, parse_int=_integer
        )
    except (ValueError, RecursionError) as error:
        raise file_error(file.path, f"damaged or cut short (its header: {error})") from error
    if not isinstance(header, dict):
        raise file_error(file.path, "damaged or cut short (its header is no JSON object)")
    return header


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name is there twice")
    return result


def _integer(text: str) -> int:
    if len(text) > _LONGEST_INTEGER:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _metadata(file: OpenFile, value: object) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise file_error(file.path, "damaged (its metadata are not text)")
    return value


def _entry(value: object) -> _Entry:
    """Return an entry of the header, whose size fits its shape."""
    if not isinstance(value, dict) or not value.keys() >= {"dtype", "shape", "data_offsets"}:
        raise TensorDataError("it has no type, shape and offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    bits = None
    if isinstance(dtype, str):
        bits = _DTYPES[dtype].itemsize * 8 if dtype in _DTYPES else _OTHER_BITS.get(dtype)
    if bits is None:
        raise TensorDataError("its element type is not known")
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise TensorDataError("its shape or offsets are not sizes")
    count = count_elements(shape)
    if count is None:
        raise TensorDataError("its shape is larger than any tensor's")
    begin, end = offsets
    if 8 * (end - begin) != count * bits:
        raise TensorDataError(f"its shape {shape} does not fit its {end - begin} bytes of {dtype}")
    return _Entry(dtype, tuple(shape), begin, end)


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
