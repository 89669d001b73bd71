"""Whether a module is what its class says: no hook, no replaced forward."""

from __future__ import annotations

from torch import nn

__all__ = ["any_global_hook", "hooked"]


def hooked(module: nn.Module) -> bool:
    """Whether calling the module does or reports more than its class's ``forward``."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )


def any_global_hook() -> bool:
    """Whether hooks are registered for all modules."""
    registries = nn.modules.module
    return bool(
        registries._global_forward_hooks
        or registries._global_forward_pre_hooks
        or registries._global_backward_hooks
        or registries._global_backward_pre_hooks
    )
