"""Tensors as the compiled library takes them.

Recent versions of PyTorch offer DLPack's C interface (``Tensor.__dlpack_c_exchange_api__``), by
which the library reads a tensor in place; for others each tensor is put into a DLPack capsule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.dlpack import to_dlpack

IN_PLACE = hasattr(Tensor, "__dlpack_c_exchange_api__")


def exchanged(tensors: Sequence[Tensor | None]) -> Sequence[Any]:
    """Return what the library's functions take for these tensors, which must outlive the call."""
    if IN_PLACE:
        return tensors
    return [None if tensor is None else to_dlpack(tensor) for tensor in tensors]
