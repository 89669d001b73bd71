"""What a CUDA graph does, on a CPU: operators are recorded once and run again on the same memory.

Python does not run in a replay, so a number that the recorded code took from the host is the number
of the recording for ever. Looking at a tensor's values, for which a GPU would have to be waited
for, is an error while recording.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

Work = Callable[[], None]

# Operators whose result, or whose result's shape, is known on the host only once they are done.
_WAITS = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
}
_MASKED = {"index", "index_put", "index_put_", "_index_put_impl_"}  # with a mask they count it
# What a CPU's tensors do without an operator.
_READS = {"__array__", "cpu", "numpy", "tolist"}


class WaitForDevice(Exception):
    """An operator whose result reaches the host."""


class RecordedWork:
    """A recorder of `CapturedStep`."""

    def __init__(self) -> None:
        self.recordings = 0

    def run(self, work: Work) -> None:
        with _NoReading(), _NoWait():
            work()

    def record(self, work: Work) -> Work:
        self.recordings += 1
        random_numbers = torch.get_rng_state()
        with _NoReading(), _Recording() as recording:
            work()
        recording.undo()
        torch.set_rng_state(random_numbers)
        return recording.replay


class _NoWait(TorchDispatchMode):
    """Raises where the values of a tensor are looked at."""

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        if name in _WAITS or (name in _MASKED and _has_mask(arguments[1])):
            raise WaitForDevice(name)
        return function(*arguments, **(keywords or {}))


class _NoReading(TorchFunctionMode):
    """Raises where a tensor is brought to the host, which a tensor of a CPU does in silence."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        keywords = keywords or {}
        name = getattr(function, "__name__", "")
        if name in _READS or (name == "to" and _blocks(arguments[1:], keywords)):
            raise WaitForDevice(name)
        return function(*arguments, **keywords)


def _blocks(arguments: Any, keywords: Any) -> bool:
    """Whether `Tensor.to` names the host and waits; a `torch.device` may be the tensor's own."""
    names_host = "cpu" in [
        each for each in (*arguments, keywords.get("device")) if type(each) is str
    ]
    return names_host and not keywords.get("non_blocking", False)


def _has_mask(indices: Any) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


class _Recording(_NoWait):
    """Runs operators and keeps them; `undo` gives back what they have overwritten."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        keywords = keywords or {}
        if function._schema.is_mutable:
            for value in tree_flatten((arguments, keywords))[0]:
                if isinstance(value, torch.Tensor):
                    self._keep(value)
        results = super().__torch_dispatch__(function, types, arguments, keywords)
        self._calls.append((function, arguments, keywords, results))
        return results

    def _keep(self, tensor: torch.Tensor) -> None:
        whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
        self._before.setdefault(whole.data_ptr(), (whole, whole.clone()))

    def undo(self) -> None:
        for whole, before in self._before.values():
            whole.copy_(before)

    def replay(self) -> None:
        with torch.no_grad():
            for function, arguments, keywords, results in self._calls:
                again = function(*arguments, **keywords)
                for ours, new in zip(tree_flatten(results)[0], tree_flatten(again)[0], strict=True):
                    if isinstance(ours, torch.Tensor) and ours.data_ptr() != new.data_ptr():
                        ours.copy_(new)
