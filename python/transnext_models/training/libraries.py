"""The libraries whose versions may change the last bits of a run, and whether they have changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import PIL
import torch

from .decoding import jpeg_library

__all__ = ["library_versions", "other_libraries"]


def library_versions() -> dict[str, str]:
    """Return what computes and what decodes images here, for the configuration of a run."""
    return {"torch": str(torch.__version__), "pillow": PIL.__version__, "jpeg": jpeg_library()}


def other_libraries(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say which libraries are others than those with which a run began.

    Parameters
    ----------
    before, now : Mapping[str, Any]
        Of configurations, what is resolved.
    """
    return [
        f"{name} was {before[name]} and is {now[name]}"
        for name in library_versions()
        if name in before and before[name] != now[name]
    ]
