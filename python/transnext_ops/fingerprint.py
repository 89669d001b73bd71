"""A hash of tensors' content, by which what was derived from them is known to be theirs still."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from transnext_ops.backends import cpp_backend

__all__ = ["fingerprint"]


def fingerprint(tensors: Sequence[Tensor]) -> Hashable:
    """Return a value that changes when an element, the type or the layout of a tensor does.

    It reads every byte, so it does not matter how the content was changed: by an optimiser, through
    ``.data``, through NumPy. The compiled library does that at the speed of memory
    (``cpp/cpu/runtime/fingerprint.cpp``): one element that differs always shows, several
    that differ go unnoticed with a probability of 2⁻⁶⁴.

    Parameters
    ----------
    tensors : sequence of Tensor
        On the CPU, of any dtype and any strides.

    Raises
    ------
    ValueError
        A tensor is not on the CPU.
    """
    if cpp_backend.unavailable() is None:
        return cpp_backend.fingerprint(tensors)
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        if tensor.device.type != "cpu":
            raise ValueError(f"tensors: got a tensor on {tensor.device}, needs the CPU")
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} {tensor.stride()}".encode())
        content = tensor.detach().resolve_neg().contiguous().flatten().view(torch.uint8)
        digest.update(content.numpy().data)
    return digest.digest()
