"""Fit a file's weights to a model with other classes, channels or stages."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .load import check_fit, load_checkpoint
from .metadata import image_side
from .names import FIRST_PARAMETER
from .read import WeightsFile, read_weights

__all__ = ["build_fitted", "check_fitted", "load_file", "load_fitted", "spread_channels"]

_Module = TypeVar("_Module", bound=nn.Module)
_STAGE = re.compile(r"(?:patch_embed|block|norm)(\d+)\.")


def load_fitted(
    model: nn.Module, source: str | os.PathLike[str] | WeightsFile, *, new_head: bool = True
) -> None:
    """Load weights into ``model``; what the model lacks or has otherwise is fitted.

    Parameters
    ----------
    model : nn.Module
        A `TransNeXt`, or any module with its parameter names; changed only if everything fits.
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
    fitted, reset_head = _fitted(model.state_dict(), weights, new_head)
    load_checkpoint(model, fitted, reset_head=reset_head)


def load_file(model: Any, path: str | os.PathLike[str]) -> None:
    """Load a file as `load_fitted` does, with the ``pretrain_size`` that its metadata give.

    It scales the position bias, so it belongs to the weights: the model's own gives way.
    """
    weights = read_weights(path)
    load_fitted(model, weights)
    side = image_side(weights, "pretrain_size")
    if side is not None and hasattr(model, "pretrain_size"):
        model.pretrain_size = side


def build_fitted(
    build: Callable[[], _Module], source: WeightsFile, *, new_head: bool = True
) -> _Module:
    """Return a module with weights; they are compared first with one that takes no memory.

    Weights of something else then cost what their file does.

    Parameters
    ----------
    build : callable
        Makes the module; called twice, first on the ``meta`` device.
    source, new_head
        See `load_fitted`, whose errors this raises.
    """
    with torch.device("meta"):
        check_fitted(build(), source, new_head=new_head)
    module = build()
    load_fitted(module, source, new_head=new_head)
    return module


def check_fitted(model: nn.Module, weights: WeightsFile, *, new_head: bool = True) -> None:
    """Raise what `load_fitted` would if the weights do not fit; a model without memory will do."""
    wanted = model.state_dict()
    fitted, reset_head = _fitted(wanted, weights, new_head)
    check_fit(wanted, fitted, reset_head=reset_head)


def _fitted(
    wanted: Mapping[str, Tensor], weights: WeightsFile, new_head: bool
) -> tuple[WeightsFile, bool]:
    """Fit weights to a model whose state dict is `wanted`.

    Also return whether the model's classifier stays as it is initialised.
    """
    stages = max((_stage(name) for name in wanted), default=0)
    state = {name: value for name, value in weights.state_dict.items() if _stage(name) <= stages}
    if weights.architecture is not None and FIRST_PARAMETER in wanted:
        in_chans = wanted[FIRST_PARAMETER].shape[1]
        if state[FIRST_PARAMETER].shape[1] != in_chans:
            state[FIRST_PARAMETER] = spread_channels(state[FIRST_PARAMETER], in_chans)
    classes = weights.architecture.num_classes if weights.architecture else None
    head = wanted.get("head.weight")
    other_head = head is not None and len(head) != classes
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


def _stage(name: str) -> int:
    """Return the number of the stage that a parameter belongs to, from 1; 0 for none."""
    stage = _STAGE.match(name)
    return int(stage[1]) if stage else 0
