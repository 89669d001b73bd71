"""What commands that take weights share: the choice of a state dict, and remarks on a file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from .console import note

WeightsKey = Annotated[
    str | None,
    typer.Option(
        "--weights-key",
        metavar="KEY",
        help="Which state dict, where the weights file has several: model_ema, ema.module, ...  "
        "[dim]\\[default: averaged weights before raw ones][/]",
        show_default=False,
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
