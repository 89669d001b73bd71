"""Gradients of what was cut out of one tensor, written side by side by the backwards themselves.

Queries, keys, values and the input of pooling are one product. Its gradient is one tensor, in which
theirs lie side by side; PyTorch makes it with a copy of them all. Here the node of autograd that
cuts the product (:func:`unpack`) has that tensor, and a backward whose gradient goes to the node
asks it for room (:func:`rooms`), writes there, and returns the room as the gradient. The node then
has nothing left to do. Where any gradient comes from elsewhere, it copies them as PyTorch would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from transnext_ops.tracing import transformed

__all__ = ["rooms", "unpack"]


class _Unpack(torch.autograd.Function):
    """The cut, whose node keeps the gradient's memory from the first request to its own turn."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, shapes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
        ctx.shapes, ctx.rooms, ctx.taken = shapes, None, set()
        ctx.axis = packed.dim() - 1
        ctx.like = packed.shape, packed.dtype, packed.device
        return _cut(packed, shapes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        written, ctx.rooms, ctx.taken = ctx.rooms, None, set()
        if written is not None:
            gradient, parts = written
            if all(given is part for given, part in zip(gradients, parts, strict=True)):
                return gradient, None
        return torch.cat([each.flatten(ctx.axis) for each in gradients], ctx.axis), None

    @staticmethod
    def room(node: Any, number: int) -> Tensor | None:
        """Return the memory of one part's gradient; None where another has asked for it before."""
        if number in node.taken:
            return None
        if node.rooms is None:
            shape, dtype, device = node.like
            gradient = torch.empty(shape, dtype=dtype, device=device)
            node.rooms = gradient, _cut(gradient, node.shapes)
        node.taken.add(number)
        return node.rooms[1][number]


_Node: Any = _Unpack._backward_cls


def _cut(packed: Tensor, shapes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    parts = packed.split([math.prod(shape) for shape in shapes], -1)
    return tuple(part.unflatten(-1, shape) for part, shape in zip(parts, shapes, strict=True))


def unpack(packed: Tensor, shapes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """Cut a tensor into views, whose gradients attention and pooling write side by side.

    Parameters
    ----------
    packed : Tensor [..., C]
    shapes : sequence of sequence of int
        What becomes of the last axis, part for part: ``[(heads, head_dim)] * 3`` takes queries,
        keys and values apart.

    Returns
    -------
    tuple of Tensor
        Views ``[..., *shape]``. Their gradients are not copied to lie side by side if each view is
        an argument of :func:`transnext_ops.aggregated_attention`,
        :func:`transnext_ops.global_attention` or :func:`transnext_ops.gelu_pool` on a kernel
        backend, and of nothing else.

    Raises
    ------
    ValueError
        The shapes do not add up to the last axis.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # asks nothing of the sizes
        return _cut(packed, shapes)
    lengths = [math.prod(shape) for shape in shapes]
    if sum(lengths) != packed.shape[-1]:
        raise ValueError(
            f"shapes: got parts of {lengths}, {sum(lengths)} in all, needs the {packed.shape[-1]} "
            "of packed's last axis"
        )
    if packed.requires_grad and torch.is_grad_enabled() and not transformed():
        return _Unpack.apply(packed, shapes)
    return _cut(packed, shapes)


def rooms(ctx: Any, inputs: Sequence[Any], needs: Sequence[bool]) -> list[Tensor | None]:
    """Return where the gradients of an operator's arguments are to be written.

    Parameters
    ----------
    ctx : context of a torch.autograd.Function in its backward
    inputs : sequence
        The operator's tensors or None, all that the forward had.
    needs : sequence of bool
        For those that have gradients, whether one is wanted.

    Returns
    -------
    list of Tensor or None
        For each of `needs`; None where the gradient goes elsewhere.
    """
    edges = iter(ctx.next_functions)  # one for each tensor
    found: list[Tensor | None] = []
    for needed, tensor in zip(needs, inputs, strict=False):
        node, number = (None, 0) if tensor is None else next(edges)
        found.append(_Unpack.room(node, number) if needed and type(node) is _Node else None)
    return found
