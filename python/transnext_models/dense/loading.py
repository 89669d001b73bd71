"""Weights of whole detectors and segmentors: those of OpenMMLab's runners, or this project's.

MMCV 1.x and MMEngine write ``{"meta": …, "state_dict": …}``, sometimes with optimiser and message
hub; the names, without a ``module.`` of distributed training, are those of the models here. Files
are read as data (:func:`transnext_models.checkpoints.read_weights`): nothing in them is run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from ..checkpoints import WeightsFile, check_fit, load_checkpoint, read_weights
from ..checkpoints.errors import file_error, quoted
from ..checkpoints.names import BACKBONE, FIRST_PARAMETER
from .published import Method

__all__ = ["classes_in", "load_dense", "read_dense"]

_COUNTER = "num_batches_tracked"  # of a BatchNorm; integers, and no weights


def read_dense(path: str | os.PathLike[str], *, key: str | None = None) -> WeightsFile:
    """Read all weights of a detector or segmentor.

    Parameters
    ----------
    path : path
        A ``.pth`` or safetensors file.
    key : str | None
        Which state dict, where the file has several.

    Raises
    ------
    CheckpointError
        If it cannot be used, or has a backbone or classifier alone.
    """
    weights = read_weights(path, key=key, strict=False, whole=True)
    for name, reason in weights.not_weights.items():
        if not name.endswith(_COUNTER):
            raise file_error(weights.path, f"its entry {quoted(name)} {reason}")
    if BACKBONE + FIRST_PARAMETER not in weights.state_dict:
        if FIRST_PARAMETER in weights.state_dict:
            raise file_error(
                weights.path,
                "it has a classifier or backbone alone; to start training from it, give it as "
                "backbone_weights",
            )
        raise file_error(weights.path, "its entries are not those of a detector or segmentor")
    return replace(weights, not_weights={})


def classes_in(weights: WeightsFile, method: Method) -> int | None:
    """Return how many classes weights are for; None if they are not of this method."""
    logits = weights.state_dict.get(method.logits)
    return None if logits is None or not logits.dim() else len(logits) - method.background


def load_dense(
    model: nn.Module, weights: WeightsFile, *, class_parameters: Sequence[str] = ()
) -> None:
    """Load all weights into `model`, or none.

    Every parameter must be there and every entry used, with equal shapes.

    Parameters
    ----------
    model : Module
        A detector or segmentor.
    weights : WeightsFile
        What :func:`read_dense` returned.
    class_parameters : sequence of str
        Parameters whose names begin so stay as they are initialised, where the weights are for
        other classes.

    Raises
    ------
    CheckpointError
        If the weights do not fit; the model is then unchanged.
    """
    wanted = model.state_dict()
    kept = tuple(class_parameters)
    given = {name: value for name, value in weights.state_dict.items() if not _of(name, kept)}
    fitting = replace(weights, state_dict=given)
    expected = {
        name: value
        for name, value in wanted.items()
        if not _of(name, kept) and not name.endswith(_COUNTER)
    }
    check_fit(expected, fitting)
    if not any(value.is_meta for value in wanted.values()):
        load_checkpoint(model, fitting, strict=False)


def _of(name: str, prefixes: tuple[str, ...]) -> bool:
    return name.startswith(prefixes) if prefixes else False
