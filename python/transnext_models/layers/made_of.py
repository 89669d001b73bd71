"""What modules are made of, at one time, to notice later that any of it is another.

A frozen model's calls need not look at each layer anew (:mod:`.plain`) as long as its modules have
the types, attributes, parameters, hooks and parts that they had, the same objects in the same
dictionaries, which the compiled library compares in a fifth of a microsecond a module.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from transnext_ops.backends import cpp_backend

from .plain import forwards_are_remembered

__all__ = ["MadeOf"]

_VERSION = operator.attrgetter("_version")
# What decides a call, of the dictionaries that a module has.
_DICTIONARIES = (
    "_parameters",
    "_modules",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


class MadeOf:
    """All modules in some modules, and all that these hold, but for the content of weights.

    Of a list of modules it holds only what is in it: the list may hold this, and would never be
    freed before Python looks for cycles.

    Parameters
    ----------
    modules : sequence of nn.Module

    Attributes
    ----------
    modules : list of nn.Module
        They and all modules in them, but for lists.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._outermost = [module._modules for module in modules]
        parts = [part for module in modules for part in module.modules()]
        lists = [part for part in parts if isinstance(part, nn.ModuleList)]
        self.modules = [part for part in parts if not isinstance(part, nn.ModuleList)]
        self._types = [type(part) for part in self.modules]
        states: list[dict[str, Any]] = [part.__dict__ for part in self.modules]
        nested = [
            held
            for state in states
            for name in _DICTIONARIES
            if isinstance(held := state.get(name), dict)
        ]
        self._dictionaries = (*states, *nested, *(part._modules for part in lists))
        self._content = tuple(
            each
            for dictionary in self._dictionaries
            for each in (dictionary, *(x for item in dictionary.items() for x in item))
        )
        self._weights: list[Tensor] = [
            tensor
            for part in self.modules
            for tensor in part._parameters.values()
            if tensor is not None
        ]
        self._counting = [weight for weight in self._weights if not weight.is_inference()]
        self._where = self._look()

    def is_so(self, modules: Sequence[nn.Module]) -> bool:
        """Whether these are those modules, made of all this, though weights may be edited."""
        return (
            len(modules) == len(self._outermost)
            and all(map(operator.is_, self._outermost, [module._modules for module in modules]))
            and cpp_backend.hold_the_same(self._dictionaries, self._content)
            and list(map(type, self.modules)) == self._types
            and forwards_are_remembered()
        )

    def is_unedited(self) -> bool:
        """Whether the weights are where they were, and PyTorch's version counters show no edit."""
        return self._look() == self._where

    def _look(self) -> list[int]:
        return [*map(Tensor.data_ptr, self._weights), *map(_VERSION, self._counting)]
