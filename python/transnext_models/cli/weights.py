"""What commands that take weights share: the choice of a state dict, and remarks on a file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from .console import note
from .optional import optional

WeightsKey = Annotated[
    str | None,
    optional(
        "Which state dict, where the weights file has several: model_ema, ema.module, ...",
        "--weights-key",
        metavar="KEY",
        default="averaged weights before raw ones",
    ),
]


@contextmanager
def weights_remarks() -> Iterator[None]:
    """Print what is to be known about a weights file as remarks, not as Python's warnings."""
    from ..checkpoints import WeightsWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", WeightsWarning)
        try:
            yield
        finally:
            for warning in caught:
                if issubclass(warning.category, WeightsWarning):
                    note(str(warning.message))
    for warning in caught:
        if not issubclass(warning.category, WeightsWarning):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
