"""Tensors as `torch.save` writes them: calls with a storage, an offset, a shape and strides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch

from .limits import MOST_DIMENSIONS, count_elements
from .pickle_values import Call, Name, Omitted, PersistentId
from .tensors import NotWeightsError, TensorDataError

_LARGEST = 2**62  # of any size in a file: no address is larger
_LONGEST_KEY = 100
_LONGEST_SHOWN = 80

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


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage as the pickle describes it: elements ``offset .. offset + count`` of a record."""

    dtype: torch.dtype
    key: str
    offset: int
    count: int


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The arguments of a call that makes a tensor, each of the right kind, none compared yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def last(self) -> int:
        """The largest index into the storage, if the tensor has elements."""
        steps = zip(self.shape, self.stride, strict=True)
        return self.offset + sum((length - 1) * step for length, step in steps)


def is_tensor(value: object) -> bool:
    """Whether `value` describes a tensor (which may still turn out to be a broken one)."""
    return isinstance(value, Call) and value.function in _REBUILD


def rebuilt(value: object) -> Rebuilt:
    """Return what a described tensor is made of, checked one by one.

    Raises
    ------
    NotWeightsError
        If it is no tensor, or of a kind that is not read.
    TensorDataError
        If its arguments are not those of a tensor.
    """
    if isinstance(value, Call) and value.function in _REBUILD_PARAMETER and value.arguments:
        value = value.arguments[0]
    if isinstance(value, Call) and value.function == _REBUILD_V3:
        raise NotWeightsError("is of an element type that is not one of float16 to float64")
    if not (isinstance(value, Call) and value.function in (_REBUILD_V1, _REBUILD_V2)):
        raise NotWeightsError(f"is {describe(value)}, not a tensor")
    if len(value.arguments) < 4:
        raise TensorDataError("its shape is missing")
    storage, offset, shape, stride = value.arguments[:4]
    if not isinstance(storage, Storage):
        raise TensorDataError("its storage is not one that torch.save writes")
    if not (_is_size(offset) and _are_sizes(shape) and _are_sizes(stride)):
        raise TensorDataError("its offset, shape or stride are not sizes")
    if len(shape) != len(stride):
        raise TensorDataError(f"it has {len(shape)} dimensions but {len(stride)} strides")
    if count_elements(shape) is None:
        raise TensorDataError("its shape is larger than any tensor's")
    if len(value.arguments) > 6 and value.arguments[6]:
        raise NotWeightsError(
            "is stored as the conjugate or negative of its data; save a plain copy of it"
        )
    # What the step of a dimension of one element is does not matter, and might be anything.
    steps = (1 if length == 1 else step for length, step in zip(shape, stride, strict=True))
    return Rebuilt(storage, offset, tuple(shape), tuple(steps))


def _is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _LARGEST


def _are_sizes(value: object) -> TypeGuard[Sequence[int]]:
    return (
        isinstance(value, (tuple, list))
        and len(value) <= MOST_DIMENSIONS
        and all(map(_is_size, value))
    )


def describe(value: object) -> str:
    """Say in a few words what pickled data is, for error messages."""
    if isinstance(value, Call):
        name = str(value.function) if isinstance(value.function, Name) else "something unnamed"
        return f"an object made by {name[:_LONGEST_SHOWN]} (not run)"
    if isinstance(value, Name):
        return f"a reference to {str(value)[:_LONGEST_SHOWN]} (not followed)"
    if isinstance(value, Omitted):
        return f"{value.kind} of {value.size:,} bytes"
    if value is None:
        return "None"
    return f"of type {type(value).__name__}"


def storage_of(value: object) -> Storage | PersistentId:
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
    if dtype is None or not isinstance(key, str) or len(key) > _LONGEST_KEY or not _is_size(count):
        return PersistentId(value)
    view = value[5] if len(value) == 6 else None
    if view is None:
        return Storage(dtype, key, 0, count)
    if isinstance(view, tuple) and len(view) == 3 and _is_size(view[1]) and _is_size(view[2]):
        return Storage(dtype, key, view[1], view[2])
    return PersistentId(value)
