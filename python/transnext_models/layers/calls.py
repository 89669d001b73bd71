"""Whether operators may replace layers in a call: nobody observes it, and it runs now.

:mod:`.plain` asks the same of layers, and :mod:`.fused` puts the two together.
"""

from __future__ import annotations

import torch
import torch.fx
from torch import Tensor, nn
from torch.utils._device import DeviceContext

from transnext_ops.tracing import transformed

__all__ = ["is_proxy", "is_tensor", "may_stand_in", "product_type", "recorded", "runs_on_cpu"]


def is_proxy(x: object) -> bool:
    """Whether `x` stands for a tensor while :mod:`torch.fx` records what a model does."""
    return isinstance(x, torch.fx.Proxy)


def is_tensor(x: object) -> bool:
    """Whether `x` is a tensor and no subclass: nothing of it but its elements decides a result."""
    return type(x) is Tensor or type(x) is nn.Parameter


def product_type(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """Return the type in which a layer on a CPU multiplies the two: float32 or bfloat16, or None.

    None stands for other types, and for two types without autocast.
    """
    types = {x.dtype, weight.dtype}
    if not types <= {torch.float32, torch.bfloat16}:
        return None
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        return dtype if dtype == torch.bfloat16 else None
    return x.dtype if len(types) == 1 else None


def recorded() -> bool:
    """Whether a compiler or a tracer records this call, for other inputs to follow."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def may_stand_in(x: object) -> bool:
    """Whether an operator may stand in for layers that take `x`: nobody would see them called."""
    return not is_proxy(x) and not _observed()


def runs_on_cpu(x: object) -> bool:
    """Whether a call on `x` runs now, on a CPU, with nobody watching.

    Then it may be computed in other parts than the layers, whatever sizes these have.
    """
    return not recorded() and is_tensor(x) and x.device.type == "cpu" and not _observed()  # type: ignore[attr-defined]


def _observed() -> bool:
    """Whether hooks on all modules, or a mode or transform of all operators, see what is called."""
    registries = nn.modules.module
    if (
        registries._global_forward_hooks
        or registries._global_forward_pre_hooks
        or registries._global_backward_hooks
        or registries._global_backward_pre_hooks
    ):
        return True
    if torch.compiler.is_compiling():  # which sees the operators as they are
        return False
    if torch._C._len_torch_dispatch_stack() > 0 or transformed():
        return True
    # ``torch.set_default_device`` is a mode too, and changes nothing of a call.
    functions = range(torch._C._len_torch_function_stack())
    return any(type(torch._C._get_function_stack_at(i)) is not DeviceContext for i in functions)
