"""Hostile arguments for operators: what a bug, a typo or an attacker passes in a right one's place.

Values are small, or views that claim much and hold little, so that a call that takes one of them
ends at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

HUGE = 2**40


class Marked(Tensor):
    """An ordinary subclass."""


class Hollow(Tensor):
    """A wrapper without memory of its own that lets every operator see it."""

    @staticmethod
    def __new__(cls, like: Tensor) -> Hollow:
        return Tensor._make_wrapper_subclass(
            cls, like.shape, dtype=like.dtype, device=like.device, strides=like.stride()
        )

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        with torch._C._DisableTorchDispatch():
            return function(*args, **(kwargs or {}))


def misaligned(tensor: Tensor) -> Tensor:
    """Return the same values, in memory that begins at an odd address."""
    memory = bytearray(tensor.numel() * tensor.element_size() + 1)
    view = torch.frombuffer(memory, dtype=tensor.dtype, offset=1, count=tensor.numel())
    result = view.view(tensor.shape)
    result.copy_(tensor.detach())
    return result


def negative(tensor: Tensor) -> Tensor:
    """Return the same values, as the negatives of what is in memory."""
    return torch._neg_view(-tensor)


def no_numbers(tensor: Tensor) -> Tensor:
    values = torch.tensor([float("nan"), float("inf"), float("-inf"), 3e38, 1e-42])
    return values.repeat(tensor.numel() // 5 + 1)[: tensor.numel()].view(tensor.shape).to(tensor)


def _resized(tensor: Tensor, change: int) -> Tensor:
    """Return a tensor one larger or smaller on its last axis."""
    sizes = list(tensor.shape)
    sizes[-1] = max(0, sizes[-1] + change)
    return tensor.new_zeros(sizes)


def _claiming(tensor: Tensor, size: int, axis: int) -> Tensor:
    """Return a view of one element that claims `size` of them on an axis."""
    sizes = list(tensor.shape)
    sizes[axis] = size
    return tensor.new_zeros([1] * tensor.dim()).expand(sizes)


# What takes the place of a tensor. Those named first mean the same numbers in another guise.
SAME: dict[str, Callable[[Tensor], Any]] = {
    "negative view": negative,
    "misaligned": misaligned,
    "subclass": lambda t: t.as_subclass(Marked),
    "parameter": lambda t: torch.nn.Parameter(t.clone()),
    "every second": lambda t: t.repeat_interleave(2, dim=-1)[..., ::2],
    "transposed": lambda t: t.movedim(0, -1).contiguous().movedim(-1, 0),
    "in wide memory": lambda t: torch.nn.functional.pad(t, (3, 4), value=float("nan"))[..., 3:-4],
}
TENSORS: dict[str, Callable[[Tensor], Any]] = {
    **SAME,
    "zeros without memory": lambda t: torch._efficientzerotensor(t.shape, dtype=t.dtype),
    "one element": lambda t: t.new_ones([1] * t.dim()).expand(t.shape),
    "overlapping": lambda t: t.new_zeros(4 * t.numel()).as_strided(t.shape, [1] * t.dim()),
    "not finite": no_numbers,
    "None": lambda t: None,
    "float": lambda t: 1.0,
    "list": lambda t: [1.0, 2.0],
    "text": lambda t: "q",
    "array": lambda t: np.zeros(tuple(t.shape), np.float32),
    "scalar": lambda t: t.new_zeros(()),
    "more dimensions": lambda t: t[None],
    "fewer dimensions": lambda t: t.flatten(),
    "one larger": lambda t: _resized(t, 1),
    "one smaller": lambda t: _resized(t, -1),
    "empty": lambda t: t.new_zeros(0),
    "no batch": lambda t: t[:0],
    "no channels": lambda t: t[..., :0],
    "huge batch": lambda t: _claiming(t, HUGE, 0),
    "huge channels": lambda t: _claiming(t, HUGE, -1),
    "float64": lambda t: t.double(),
    "float16": lambda t: t.half(),
    "int32": lambda t: t.int(),
    "int64": lambda t: t.long(),
    "uint8": lambda t: t.to(torch.uint8),
    "bool": lambda t: t > 0,
    "complex": lambda t: t.to(torch.complex64),
    "conjugate": lambda t: t.to(torch.complex64).conj(),
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "quantised": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    "meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "sparse rows": lambda t: t.reshape(t.shape[0], -1).to_sparse_csr(),
    "mkldnn": lambda t: t.to_mkldnn(),
    "nested": lambda t: torch.nested.nested_tensor([t, t]),
    "jagged": lambda t: torch.nested.nested_tensor([t, t], layout=torch.jagged),
    "hollow": Hollow,
}
INDICES: dict[str, Callable[[Tensor], Any]] = {
    "largest": lambda t: torch.full_like(t, 2**31 - 1),
    "smallest": lambda t: torch.full_like(t, -(2**31)),
    "-1": lambda t: torch.full_like(t, -1),
    "last wrong": lambda t: torch.cat((torch.zeros_like(t.flatten())[1:], t.new_full((1,), 10**6)))
    .view(t.shape),
}  # fmt: skip
NUMBERS = (
    -(2**63), -HUGE, -1, 0, 1, 2, 5, 4097, 10**6, 2**31 - 1, 2**31, HUGE, 2**62, 2**63 - 1, 2**70,
    1.5, float("nan"), float("inf"), None, "3", True, [3], torch.tensor(3),
)  # fmt: skip
GRIDS = (
    (0, 20), (20, 0), (-5, -4), (20, 1), (1, 20), (4, 5), (2, 10), (2**31, 2**31), (2**62, 4),
    (2**63 - 1, 2**63 - 1), (-(2**63), 1), (5,), (5, 4, 1), (), (5.0, 4.0), None, 20, "54",
)  # fmt: skip
FLAGS = ([], [True], [False] * 40, [True] * 40, None, "yes", [None] * 11)
TEXTS = ("", "auto", "torch", "cpp ", "CPP", "\0", "x" * 10_000, None, 3, b"cpp")
DTYPES = (torch.int8, torch.float16, torch.float64, torch.complex64, torch.quint8, None, 3, "float")


def replacements(value: Any) -> list[tuple[str, Any]]:
    """Return (name, hostile value or a maker of one) for an argument of a right call.

    A maker may fail where PyTorch has no such tensor.
    """
    if isinstance(value, Tensor):
        made = {**TENSORS, **INDICES} if value.dtype == torch.int32 else TENSORS
        return list(made.items())
    if value is None:
        return [("some tensor", torch.ones(3)), ("number", 3), ("text", "x")]
    if isinstance(value, bool):
        return [(repr(other), other) for other in (not value, None, 2, "no", [True])]
    if isinstance(value, (int, float)):
        return [(repr(other), other) for other in NUMBERS]
    if isinstance(value, str):
        return [(repr(other)[:12], other) for other in TEXTS]
    if isinstance(value, torch.dtype):
        return [(repr(other), other) for other in DTYPES]
    if all(isinstance(entry, bool) for entry in value):
        return [(repr(other)[:12], other) for other in FLAGS]
    return [(repr(other), other) for other in GRIDS]


def made(value: Any, of: Any) -> Any:
    """Make a replacement of an argument; raise `NotMade` where PyTorch cannot."""
    if not callable(value) or isinstance(value, torch.dtype):
        return value
    try:
        return value(of)
    except Exception as error:
        raise NotMade from error


class NotMade(Exception):
    """PyTorch has no such tensor."""
