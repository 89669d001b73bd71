"""The layout of a tensor in a file, checked against the bytes that are there before it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from .limits import count_elements


class TensorDataError(ValueError):
    """An entry's tensor is damaged or lies about its size; the message says how."""


class NotWeightsError(ValueError):
    """An entry is well, but no tensor of floating-point numbers; the message says what it is."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A tensor of a file that has not been read.

    Attributes
    ----------
    dtype, shape : torch.dtype, tuple[int, ...]
        Of the tensor.
    stride, offset : tuple[int, ...], int
        In elements of its storage.
    storage : str
        What its bytes are called in the file; tensors may share a storage.
    storage_bytes : int
        How many bytes that storage has.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage: str
    storage_bytes: int

    @property
    def count(self) -> int:
        """Number of elements."""
        count = count_elements(self.shape)
        assert count is not None, "checked when the layout was made"
        return count

    @property
    def bytes(self) -> int:
        """Bytes of the tensor on its own, whatever it shares."""
        return self.count * self.dtype.itemsize


class WeightsSource(Protocol):
    """An open weights file of some format.

    Attributes
    ----------
    root : Any
        What it holds: a mapping of names to values that `layout` understands, or, where the format
        has such, anything around one.
    metadata : Mapping[str, str]
        Text about it.
    is_flat : bool
        Whether the format has names and tensors and nothing else.
    """

    root: Any
    metadata: Mapping[str, str]
    is_flat: bool

    def is_tensor(self, value: object) -> bool:
        """Whether `value` describes a tensor (which may still turn out to be a broken one)."""

    def layout(self, value: object) -> Layout:
        """Return where the tensor lies that `value`, a part of `root`, describes.

        Raises
        ------
        TensorDataError
            If its sizes do not fit the bytes in the file.
        NotWeightsError
            If it is none, or one of a kind that is not read.
        """

    def tensor(self, layout: Layout) -> torch.Tensor:
        """Read a tensor; those of one storage share memory."""

    def is_object(self, value: object) -> bool:
        """Whether `value` is what a program keeps as an object of its own, which is not read."""

    def describe(self, value: object) -> str:
        """Say in a few words what a part of `root` is."""
