"""Build detectors and segmentors by name; :func:`transnext_models.create_model` comes here."""

from __future__ import annotations

import contextlib
import inspect
import os
from typing import Any

import torch
from torch import nn

from transnext_ops.distribution import install_hint

from .checkpoints import CheckpointError, WeightsFile, read_weights
from .checkpoints.errors import file_error
from .checkpoints.hub import packaged_weights, resolve_weights
from .checkpoints.metadata import class_colours, class_names, image_side
from .checkpoints.pretrained import load_fitted
from .dense.backbone import build_backbone
from .dense.loading import classes_in, load_dense, read_dense
from .dense.published import KNOWN_DENSE_MODELS, DenseModel, find_dense_model
from .transnext import TransNeXt

__all__ = ["NO_MASKS", "create_dense_model", "own_weights", "shown_by_weights"]

NO_MASKS = "none"
"""What weights say of `masks` where a detector with masks was trained on boxes alone."""

_BACKBONE_OPTIONS = frozenset(inspect.signature(TransNeXt).parameters) - {
    *("features_only", "num_classes", "out_indices", "global_pool", "drop_rate"),
}


def create_dense_model(
    name: str,
    *,
    pretrained: bool = False,
    weights: str | os.PathLike[str] | WeightsFile | None = None,
    key: str | None = None,
    backbone_weights: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    **options: Any,
) -> nn.Module:
    """Build a detector or segmentor, with random, published or given weights.

    Parameters
    ----------
    name : str
        ``architecture`` or ``architecture.tag``; see :mod:`transnext_models.dense.published`.
    pretrained : bool
        Load the model's own weights: from the package, the local cache or the Hugging Face Hub.
    weights : str | path | WeightsFile | None
        Load these instead: a file, ``owner/repo:file`` on the Hub, or what `read_dense` returned.
    key : str | None
        Which state dict, where the file has several.
    backbone_weights : str | path | None
        Load these into the backbone alone: a classifier's weights, such as ``"transnext_tiny"``.
    num_classes : int | None
        None is that of the weights, of the published model without any. With another number than
        the weights have, what depends on it is new.
    **options
        Parameters of the backbone, over the published ones.

    Returns
    -------
    Module
        In training mode.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As :func:`transnext_models.create_model`.
    ModuleNotFoundError
        Without torchvision, whose operators detectors use.
    """
    published = find_dense_model(name)
    for option in options:
        if option not in _BACKBONE_OPTIONS:
            known = ", ".join(sorted(_BACKBONE_OPTIONS | {"num_classes", "backbone_weights"}))
            raise TypeError(f"create_model: got unknown option {option!r}, needs one of {known}")
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes: got {num_classes}, needs at least 1")
    if pretrained:
        weights = own_weights(published)
    if weights is None:
        model = _build(published, num_classes or published.num_classes, options)
    else:
        if not isinstance(weights, WeightsFile):
            weights = read_dense(resolve_weights(weights), key=key)
        model = _with_weights(published, weights, num_classes, options)
    if backbone_weights is not None:
        if weights is not None:
            raise ValueError("backbone_weights: got these and weights, needs one of them")
        load_fitted(model.backbone, read_weights(resolve_weights(backbone_weights)))
    return model


def own_weights(published: DenseModel) -> str | os.PathLike[str]:
    """Return the source of a model's own weights: a file in this package, or one on the Hub."""
    if published.repo is None:
        return packaged_weights(published.file, published.full_name)
    return f"{published.repo}:{published.file}"


def shown_by_weights(weights: WeightsFile, task: str) -> DenseModel:
    """Return the model that weights are of: what their metadata say, or else their shapes.

    Parameters
    ----------
    weights : WeightsFile
        What `read_dense` returned.
    task : {"detect", "segment"}
        What the model is to be for.

    Raises
    ------
    CheckpointError
        If they are those of no such model.
    """
    stated = KNOWN_DENSE_MODELS.get(weights.metadata.get("model", "").partition(".")[0])
    known = [stated] if stated is not None else list(KNOWN_DENSE_MODELS.values())
    variant = weights.architecture.variant if weights.architecture is not None else None
    for published in known:
        method, classes = published.method, classes_in(weights, published.method)
        if method.task == task and published.backbone == variant and classes:
            with torch.device("meta"), contextlib.suppress(CheckpointError):
                load_dense(_build(published, classes, {}), weights)
                return published
    raise file_error(
        weights.path, f"it has no model that can {task} known by name; say which with --model"
    )


def _with_weights(
    published: DenseModel, weights: WeightsFile, num_classes: int | None, options: dict[str, Any]
) -> Any:
    """Build a model with weights, after comparing them with one that takes no memory."""
    method = published.method
    known = classes_in(weights, method)
    if known is None or known < 1:
        raise file_error(weights.path, f"its entries are not those of {published.name}")
    wanted = known if num_classes is None else num_classes
    # Weights of `transnext train` say the sizes they were trained at.
    sides = {side: image_side(weights, side) for side in ("img_size", "pretrain_size")}
    options = {side: value for side, value in sides.items() if value is not None} | options
    fresh = () if wanted == known else method.class_parameters
    with torch.device("meta"):
        shape = _build(published, wanted, options)
    load_dense(shape, weights, class_parameters=fresh)
    model = _build(published, wanted, options)
    load_dense(model, weights, class_parameters=fresh)
    if weights.metadata.get("masks") == NO_MASKS and hasattr(model, "has_masks"):
        model.has_masks = False
    if not fresh:
        model.class_names = class_names(weights, known)
        model.class_colours = class_colours(weights, known)
    return model


def _build(published: DenseModel, num_classes: int, options: dict[str, Any]) -> Any:
    """Build a model with random weights."""
    backbone = build_backbone(published, **options)
    if published.method.task == "detect":
        try:
            from . import detection
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "torchvision":
                raise
            raise ModuleNotFoundError(
                f"torchvision: got none, detectors need it: {install_hint('dense')}",
                name=error.name,
            ) from error

        method = detection.MaskRCNN if published.method.name == "maskrcnn" else detection.DINO
        return method(backbone, num_classes, **published.heads)
    from . import segmentation

    head = segmentation.UPerNet if published.method.name == "upernet" else segmentation.Mask2Former
    return head(backbone, num_classes, **published.heads)
