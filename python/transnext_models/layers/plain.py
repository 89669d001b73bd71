"""Whether a module is plain, as its class builds it: only then may an operator replace its call.

Fused operators read a layer's weights instead of calling it. That is right for a layer as PyTorch
and this package build it, and wrong once anything is attached to it or replaces a part of it: a
hook, an adapter, a parametrisation, a pruned or quantised weight, another padding mode. All of that
shows in a module's type, dictionaries and attributes, which are checked here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = [
    "forwards_are_remembered",
    "plain",
    "plain_convolution",
    "plain_linear",
    "plain_norm",
    "plain_parameter",
    "remember_forward",
]

# Attributes that replace what a call does when they are set on an instance.
_REPLACEMENTS = frozenset(
    ("__call__", "_call_impl", "_conv_forward", "forward", "pool", "position_bias", "scale")
)
_FORWARDS: dict[type[nn.Module], Any] = {}


def remember_forward(*kinds: type[nn.Module]) -> None:
    """Record the ``forward`` that these classes have now, to notice a replacement later."""
    for kind in kinds:
        _FORWARDS[kind] = kind.forward


def forwards_are_remembered() -> bool:
    """Whether none of the classes that are asked for has had its ``forward`` replaced."""
    return all(kind.forward is known for kind, known in _FORWARDS.items())


remember_forward(nn.Linear, nn.LayerNorm, nn.Conv2d, nn.Dropout)


def plain(module: nn.Module | None, kind: type[nn.Module]) -> bool:
    """Whether `module` is a `kind` and calling it does what that class's ``forward`` does."""
    if type(module) is not kind or kind.forward is not _FORWARDS[kind]:
        return False
    state = module.__dict__
    return not (
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
        or state.get("_compiled_call_impl")
    ) and _REPLACEMENTS.isdisjoint(state)


def _holds_plain_parameters(module: nn.Module) -> bool:
    """Whether a layer's parameters are a weight and a bias, or None for it, and nothing else.

    A pruned or normalised weight is an attribute beside other parameters; an adapter's, a quantised
    or a sharded one is of another type, a sparse one of another layout.
    """
    parameters = module._parameters
    weight = parameters.get("weight")
    if len(parameters) != 2 or type(weight) is not nn.Parameter or weight.layout != torch.strided:
        return False
    return type(parameters.get("bias", ())) in (nn.Parameter, type(None))


def plain_linear(layer: nn.Module | None) -> bool:
    """Whether calling `layer` is ``F.linear(x, layer.weight, layer.bias)``."""
    return plain(layer, nn.Linear) and _holds_plain_parameters(layer)  # type: ignore[arg-type]


def plain_norm(layer: nn.Module | None) -> bool:
    """Whether `layer` is a LayerNorm over one axis with weight and bias."""
    return (
        plain(layer, nn.LayerNorm)
        and _holds_plain_parameters(layer)  # type: ignore[arg-type]
        and layer._parameters["bias"] is not None  # type: ignore[union-attr]
        and len(layer.normalized_shape) == 1  # type: ignore[union-attr, arg-type]
    )


def plain_convolution(
    layer: nn.Module | None, kernel: int, stride: int, *, depthwise: bool
) -> bool:
    """Whether `layer` is a convolution with zeros around the map, centred and not dilated.

    Parameters
    ----------
    layer : nn.Module | None
    kernel, stride : int
        What its kernel and stride must be, on both axes; its padding must be ``kernel // 2``.
    depthwise : bool
        Whether it has one group for each channel, or one in all.
    """
    if not plain(layer, nn.Conv2d) or not _holds_plain_parameters(layer):  # type: ignore[arg-type]
        return False
    assert isinstance(layer, nn.Conv2d)
    half = kernel // 2
    return (
        layer.kernel_size == (kernel, kernel)
        and layer.stride == (stride, stride)
        and layer.padding == (half, half)
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and layer.groups == (layer.out_channels if depthwise else 1)
    )


def plain_parameter(module: nn.Module, name: str) -> bool:
    """Whether `module` has a parameter of its own called `name`, as PyTorch makes them."""
    return type(module._parameters.get(name)) is nn.Parameter
