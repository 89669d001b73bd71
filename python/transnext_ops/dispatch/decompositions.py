"""The custom operators in PyTorch's own, for graphs that go where this package is not.

A program of ``torch.export`` for whose model a kernel backend was named holds the nodes
``torch.ops.transnext.*``. ``ExportedProgram.run_decompositions`` takes them apart with
:func:`decompositions`. They are not in PyTorch's own table: Inductor takes an operator that is
there for one that it should have taken apart, and refuses its kernel where ``CI`` is set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from transnext_ops.backends import torch_backend
from transnext_ops.schema import OPERATORS

__all__ = ["decompositions"]


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return how ``ExportedProgram.run_decompositions`` takes this package's operators apart.

    Returns
    -------
    dict
        PyTorch's default table, and a function of PyTorch's operators for each forward operator of
        ``torch.ops.transnext``. Gradients, which no decomposition is asked for, come from them.

    Examples
    --------
    >>> portable = program.run_decompositions(transnext_ops.decompositions())  # doctest: +SKIP
    """
    from torch.export import default_decompositions  # imports all of sympy

    return {**default_decompositions(), **_DECOMPOSITIONS}


def _decomposition(name: str) -> Callable[..., Any]:
    operator = OPERATORS[name]
    has_sums = len(operator.outputs) > operator.results  # for the backward alone
    composite = getattr(torch_backend, f"{name}_and_sums" if has_sums else name)

    def decomposition(*arguments: Any) -> Any:
        outputs = composite(*arguments[:-1])  # the last is the name of a backend
        # What follows in a graph was traced for contiguous results, which operators give.
        if isinstance(outputs, Tensor):
            return outputs.contiguous()
        return tuple(output.contiguous() for output in outputs)

    return decomposition


_DECOMPOSITIONS = {
    getattr(torch.ops.transnext, name).default: _decomposition(name) for name in OPERATORS
}
