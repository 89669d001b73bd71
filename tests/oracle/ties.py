"""Nearly tied ranks: what differs by rounding alone, and what does not.

DINO's queries take their content by rank, Mask2Former's losses are taken at the points of the
highest rank. Where two values are a few last bits apart, two programs that round in another order
rank them in another order, and so does one program on another number of threads. `SameRanks` has
both take the same ranks and says how far apart those were that swapped; in `float64` none swap.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class SameRanks(TorchFunctionMode):
    """Within the first ``with`` block, notes what `topk` returns; in the second, returns it again.

    Attributes
    ----------
    apart : float
        How far the values at a rank are from those that the second block would have taken, over
        the largest value.
    swapped : int
        Ranks that the second block would have given to another one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.apart, self.swapped = 0.0, 0
        self._noted: list[Tensor] = []
        self._left: Iterator[Tensor] | None = None

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if self._left is None:
            self._left = iter(self._noted)
        elif error[0] is None:
            assert next(self._left, None) is None, "fewer calls of topk than noted"

    def __torch_function__(self, function: Any, _: Any, given: Any = (), named: Any = None) -> Any:
        found = function(*given, **(named or {}))
        if function not in (torch.topk, Tensor.topk):
            return found
        if self._left is None:
            self._noted.append(found.indices.clone())
            return found
        indices, values = next(self._left), given[0]
        chosen = values.gather((named or {}).get("dim", -1), indices)
        distance = float((chosen - found.values).abs().max())
        self.swapped += int((indices != found.indices).sum())
        self.apart = max(self.apart, distance / float(values.abs().max()))
        return torch.return_types.topk((chosen, indices))


class _Promotion(TorchFunctionMode):
    """Makes of what asks for float32 what asks for float64."""

    def __torch_function__(self, function: Any, _: Any, given: Any = (), named: Any = None) -> Any:
        named = dict(named or {})
        if named.get("dtype") is torch.float32:
            named["dtype"] = torch.float64
        return (Tensor.double if function is Tensor.float else function)(*given, **named)


@contextmanager
def float64() -> Iterator[None]:
    """Compute all in double precision, on tensors and modules that are so."""
    torch.set_default_dtype(torch.float64)
    try:
        with _Promotion():
            yield
    finally:
        torch.set_default_dtype(torch.float32)
