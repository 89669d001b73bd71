"""Fit a file's weights to a model that was asked for with other classes, channels or stages."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from .checkpoints import WeightsFile, check_fit, load_checkpoint, read_weights

if TYPE_CHECKING:
    from .transnext import TransNeXt

__all__ = ["check_fitted", "load_fitted", "spread_channels"]

_FIRST_CONV = "patch_embed1.proj.weight"
_STAGE = re.compile(r"(?:patch_embed|block|norm)(\d+)\.")


def load_fitted(
    model: TransNeXt, source: str | os.PathLike[str] | WeightsFile, *, new_head: bool = True
) -> None:
    """Load weights into ``model``; what the model lacks or has otherwise is fitted.

    Parameters
    ----------
    model : TransNeXt
        Changed only if everything fits.
    source : path | WeightsFile
        The weights.
    new_head : bool
        Keep the model's classifier as it is initialised if the weights' has another number of
        classes, or if they have none; otherwise that is an error.

    Raises
    ------
    CheckpointError
        If the file cannot be used or does not fit; a ValueError.
    """
    weights = source if isinstance(source, WeightsFile) else read_weights(source)
    fitted, reset_head = _fitted(model, weights, new_head)
    load_checkpoint(model, fitted, reset_head=reset_head)


def check_fitted(model: TransNeXt, weights: WeightsFile, *, new_head: bool = True) -> None:
    """Raise what `load_fitted` would if the weights do not fit; a model without memory will do."""
    fitted, reset_head = _fitted(model, weights, new_head)
    check_fit(model.state_dict(), fitted, reset_head=reset_head)


def _fitted(model: TransNeXt, weights: WeightsFile, new_head: bool) -> tuple[WeightsFile, bool]:
    """Return the weights as ``model`` takes them, and whether its classifier stays a new one."""
    state = {name: tensor for name, tensor in weights.state_dict.items() if _built(model, name)}
    filters = state.get(_FIRST_CONV)
    known = weights.architecture is not None
    if known and filters is not None and filters.shape[1] != model.in_chans:
        state[_FIRST_CONV] = spread_channels(filters, model.in_chans)
    classes = weights.architecture.num_classes if weights.architecture else None
    other_head = model.num_classes > 0 and classes != model.num_classes
    return replace(weights, state_dict=state), new_head and other_head


def spread_channels(filters: Tensor, in_chans: int) -> Tensor:
    """Fit filters ``[out, channels, kh, kw]`` to ``in_chans`` channels.

    One channel gets their sum: a grey image then gives what the same image in colour gave. More
    get the filters in turn, scaled so that the response to equal channels stays what it was.
    """
    channels = filters.shape[1]
    if in_chans == 1:
        return filters.sum(dim=1, keepdim=True)
    turns = -(-in_chans // channels)
    return filters.repeat(1, turns, 1, 1)[:, :in_chans] * (channels / in_chans)


def _built(model: TransNeXt, name: str) -> bool:
    """Whether a parameter does not belong to a stage that the model left out."""
    stage = _STAGE.match(name)
    return stage is None or int(stage[1]) <= model.num_stages
