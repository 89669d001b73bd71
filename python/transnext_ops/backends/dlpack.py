"""Tensors as the compiled library reads them: the one module where they leave PyTorch.

Recent versions of PyTorch offer DLPack's C interface (``Tensor.__dlpack_c_exchange_api__``), by
which the library reads a tensor in place; with others each tensor is wrapped in a DLPack capsule.
Either hands out memory, sizes and strides alone. Three kinds of tensor are more than that, or less:
views that stand for the negative of their memory (``x.is_neg()``), tensors that stand for zeros and
have no memory, and those whose elements are not aligned. The library refuses to read them
(``_cpp.UnreadableTensor``) and is then called with copies, so that no other call pays for a check.
Conjugate views are complex, which no operator supports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.dlpack import to_dlpack

IN_PLACE = hasattr(Tensor, "__dlpack_c_exchange_api__")


def exchanged(tensors: Sequence[Tensor | None]) -> Sequence[Any]:
    """Return the tensors as arguments of the library; they must outlive the call."""
    if IN_PLACE:
        return tensors
    # A capsule says nothing of the negative bit.
    return [None if tensor is None else to_dlpack(tensor.resolve_neg()) for tensor in tensors]


def readable(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return the tensors, with copies of those that the library cannot read in place.

    Outputs are freshly allocated and so returned as they are.
    """
    return [None if tensor is None else _readable(tensor.resolve_neg()) for tensor in tensors]


def check_memory(tensor: Tensor) -> None:
    """Raise ValueError if the memory of a tensor's elements was freed under it."""
    if tensor.numel() > 0 and tensor.data_ptr() == 0 and not tensor._is_zerotensor():
        raise ValueError(
            f"got a tensor of shape {list(tensor.shape)} whose storage was resized to nothing, "
            "needs its memory"
        )


def _readable(tensor: Tensor) -> Tensor:
    if tensor.numel() == 0:
        return tensor
    check_memory(tensor)
    address = tensor.data_ptr()
    return tensor if address != 0 and address % tensor.element_size() == 0 else tensor.clone()
