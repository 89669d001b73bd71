"""From a checked call to its implementation: autocast, backend, custom operator or composite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from transnext_ops.backends import registry, torch_backend
from transnext_ops.dispatch import eager
from transnext_ops.dispatch.custom_operators import PATHS


def run(
    op: str,
    first: Tensor,
    arguments: Sequence[Any],
    backend: str | None,
    *,
    head_dim: int | None = None,
    window_size: int | None = None,
) -> Tensor:
    """Run an operator on checked arguments and return its first output.

    Parameters
    ----------
    op : str
        Name in :data:`transnext_ops.backends.registry.OPERATORS`.
    first : Tensor
        The activation (or parameter) that sets device and dtype.
    arguments : sequence
        The operator's arguments in the backends' order.
    backend : str or None
        The call's own choice; None takes the one in force.
    """
    result = run_all(op, first, arguments, backend, head_dim=head_dim, window_size=window_size)
    return result[0] if isinstance(result, (tuple, list)) else result


def run_all(
    op: str,
    first: Tensor,
    arguments: Sequence[Any],
    backend: str | None,
    *,
    head_dim: int | None = None,
    window_size: int | None = None,
) -> Any:
    """Run an operator as :func:`run` does, and return all that its backend returns."""
    requested = registry.get_backend() if backend is None else registry.check_backend_name(backend)
    name = registry.choose(requested, op, first.device, first.dtype, head_dim, window_size)
    if name == "torch":
        return getattr(torch_backend, op)(*arguments)
    return eager.call(PATHS[op], *arguments, name)
