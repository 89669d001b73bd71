"""The published models' arguments, for the published formulation."""

from __future__ import annotations

from typing import Any

from transnext_models.variants import VARIANTS, architecture_arguments


def published_arguments(name: str) -> dict[str, Any]:
    """Return what the published formulation needs to build a variant."""
    arguments = architecture_arguments(VARIANTS[name])
    del arguments["qkv_bias"]  # which the published formulation always has
    return arguments
