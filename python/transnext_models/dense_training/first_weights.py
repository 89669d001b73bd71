"""The weights that a run begins with, and the sides that images were resized to for them."""

from __future__ import annotations

import os

from ..checkpoints.hub import resolve_weights
from ..checkpoints.metadata import image_scale
from ..dense.loading import read_dense
from ..dense.published import find_dense_model, is_dense
from ..dense_registry import own_weights

__all__ = ["scale_of", "source_of"]


def source_of(weights: str) -> str | os.PathLike[str]:
    """Return what weights are loaded from: a file, or a model's own where its name is given."""
    return own_weights(find_dense_model(weights)) if _names_a_model(weights) else weights


def scale_of(weights: str) -> tuple[int, int] | None:
    """Return the long and short side that weights of `transnext train` say; None for others.

    Raises
    ------
    CheckpointError
        If they cannot be used.
    """
    if _names_a_model(weights):
        return None  # those of a model by name are for its own sides
    return image_scale(read_dense(resolve_weights(weights)))


def _names_a_model(weights: str) -> bool:
    return not os.path.exists(weights) and is_dense(weights)
