"""Build models by name."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .dense.published import KNOWN_DENSE_MODELS, is_dense
from .sharing import is_shared, open_shared, pretrained_config
from .transnext import TransNeXt
from .variants import VARIANTS, Checkpoint, Variant, architecture_arguments, find_checkpoint

if TYPE_CHECKING:
    from .checkpoints import WeightsFile

__all__ = ["LoadedModel", "create_model", "list_models", "load_model"]

_OPTIONS = tuple(name for name in inspect.signature(TransNeXt).parameters)


def list_models(pattern: str | None = None, *, pretrained: bool = False) -> list[str]:
    """List the names that :func:`create_model` knows.

    Parameters
    ----------
    pattern : str | None
        List the names that match a shell's pattern, detectors and segmentors among them: each
        architecture, or its ``architecture.tag`` where only these match. ``"*_coco"`` lists all
        detectors. None lists the classifiers, which are the backbones too.
    pretrained : bool
        List ``architecture.tag`` of every checkpoint instead of the architectures.
    """
    if pattern is not None:
        known = {v.name: [f"{v.name}.{c.tag}" for c in v.checkpoints] for v in VARIANTS.values()}
        known |= {model.name: [model.full_name] for model in KNOWN_DENSE_MODELS.values()}
        found: list[str] = []
        for name, full_names in known.items():
            matches = fnmatch.filter([] if pretrained else [name], pattern)
            found += matches or fnmatch.filter(full_names, pattern)
        return found
    if not pretrained:
        return list(VARIANTS)
    return [f"{v.name}.{c.tag}" for v in VARIANTS.values() for c in v.checkpoints]


def create_model(
    name: str,
    pretrained: bool = False,
    weights: str | os.PathLike[str] | None = None,
    key: str | None = None,
    **options: Any,
) -> Any:
    """Build a model, with random, published or given weights.

    Parameters
    ----------
    name : str
        ``architecture`` or ``architecture.tag``, see :func:`list_models`. The tag picks published
        weights and the image size that goes with them. Detectors and segmentors are
        ``maskrcnn_transnext_tiny`` and the like; ``hf-hub:owner/repo`` and ``local-dir:PATH`` are
        models that were shared, as in timm.
    pretrained : bool
        Load the published weights, from the local cache or the Hugging Face Hub.
    weights : str | path | None
        Load these instead: a file, or a name that :mod:`transnext_models.checkpoints.hub` resolves.
    key : str | None
        Which state dict, where the file has several, such as ``"model_ema"``; see
        :func:`transnext_models.checkpoints.read_weights`.
    **options
        Any parameter of :class:`TransNeXt`, over those of the variant. Of detectors and segmentors
        they are the backbone's; see also :func:`dense_registry.create_dense_model`.

    Returns
    -------
    TransNeXt, or a detector or segmentor
        In training mode, as PyTorch's modules start.

    Raises
    ------
    ValueError
        If the name or an option's value is unknown, or the weights cannot be read or do not fit.
    TypeError
        If an option is unknown.
    RuntimeError
        If published weights cannot be downloaded.

    Notes
    -----
    The model has as many classes as the weights, unless ``num_classes`` asks for another number:
    then its classifier is a new one. With another ``in_chans`` than theirs, the first convolution's
    filters are spread over the new channels. A backbone leaves out the classifier, and the stages
    that it does not build. Image sizes that the weights' metadata give are the model's.
    """
    if is_dense(name):
        _check_sources(pretrained, weights, key)
        from .dense_registry import create_dense_model

        return create_dense_model(name, pretrained=pretrained, weights=weights, key=key, **options)
    shared = isinstance(name, str) and is_shared(name)
    if not shared:
        variant, checkpoint = find_checkpoint(name)
    for option in options:
        if option not in _OPTIONS:
            known = ", ".join(_OPTIONS)
            raise TypeError(f"create_model: got unknown option {option!r}, needs one of {known}")
    if shared:
        return _create_shared(name, pretrained, weights, key, options)
    _check_sources(pretrained, weights, key)
    if pretrained:
        weights = f"{variant.name}.{checkpoint.tag}"
    if weights is None:
        return _build(variant, checkpoint, None, options)
    return load_model(name, weights, key=key, **options).model


def _create_shared(
    name: str,
    pretrained: bool,
    weights: str | os.PathLike[str] | None,
    key: str | None,
    options: dict[str, Any],
) -> TransNeXt:
    if weights is not None or key is not None:
        raise ValueError(f"weights: {name} has its own, needs pretrained=True for them")
    if pretrained:
        return _load_shared(name, None, None, options).model
    config = open_shared(name, _OPTIONS).config
    model = TransNeXt(**{**config.arguments, **options})
    model.default_cfg = model.pretrained_cfg = dict(config.pretrained)
    return model


def _check_sources(
    pretrained: bool, weights: str | os.PathLike[str] | None, key: str | None
) -> None:
    if pretrained and weights is not None:
        raise ValueError("weights: got both pretrained=True and weights, needs one of them")
    if key is not None and not pretrained and weights is None:
        raise ValueError(f"key: got {key!r}, which needs weights")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with the weights of a file.

    Attributes
    ----------
    model : TransNeXt
        In training mode.
    weights : WeightsFile
        What was read.
    variant, checkpoint : Variant, Checkpoint
        The preset that they belong to: its preprocessing and its labels are theirs.
    """

    model: TransNeXt
    weights: WeightsFile
    variant: Variant
    checkpoint: Checkpoint


def load_model(
    name: str | None,
    source: str | os.PathLike[str],
    *,
    key: str | None = None,
    check: Callable[[WeightsFile], None] | None = None,
    **options: Any,
) -> LoadedModel:
    """Build a model with weights; every function and command that does goes through here.

    Parameters
    ----------
    name : str | None
        The model; None is the one that the weights' name or their shapes say.
    source, key : str | os.PathLike[str], str | None
        The weights, as in :func:`create_model`; or a shared model (``hf-hub:``, ``local-dir:``).
    check : callable, optional
        Raises if the caller has no use for weights like these; called before the model is built.
    **options
        Any parameter of :class:`TransNeXt`, over what the weights say and over the variant's.

    Returns
    -------
    LoadedModel

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As :func:`create_model`.
    """
    from .checkpoints import image_crop, image_side, read_weights
    from .checkpoints.errors import file_error
    from .checkpoints.hub import resolve_weights

    shared = next((text for text in (name, os.fspath(source)) if text and is_shared(text)), None)
    if shared is not None:
        if name not in (None, shared) or os.fspath(source) != shared:
            raise ValueError(f"weights: got {name} and {source}, needs one of them: it has its own")
        return _load_shared(shared, key, check, options)
    if name is not None:
        find_checkpoint(name)  # before any download
    weights = read_weights(resolve_weights(source), key=key)
    shown = weights.architecture
    if shown is None and name is None:
        raise file_error(weights.path, "its entries are not those of a TransNeXt")
    needs_head = "num_classes" not in options and not options.get("features_only")
    if shown is not None and shown.num_classes is None and needs_head:
        raise file_error(
            weights.path,
            "it has no classification head, so it names no classes; create_model(num_classes=0) "
            "builds a model without one, another num_classes gives it a new one",
        )
    if check is not None:
        check(weights)
    variant, checkpoint = _preset(name, source, weights)
    # Weights of `transnext train` say the sizes they were trained at, and how images became square.
    for side in ("img_size", "pretrain_size"):
        if side not in options and (value := image_side(weights, side)) is not None:
            options[side] = value
    if (crop := image_crop(weights)) is not None:
        checkpoint = dataclasses.replace(
            checkpoint,
            img_size=image_side(weights, "img_size") or checkpoint.img_size,
            crop_mode=crop[0],
            crop_pct=crop[1],
        )
    return LoadedModel(_build(variant, checkpoint, weights, options), weights, variant, checkpoint)


def _load_shared(
    source: str,
    key: str | None,
    check: Callable[[WeightsFile], None] | None,
    options: dict[str, Any],
) -> LoadedModel:
    from .checkpoints import read_weights

    shared = open_shared(source, _OPTIONS)
    weights = read_weights(shared.weights(), key=key)
    if check is not None:
        check(weights)
    model = TransNeXt.of_shared(shared.config, weights, **options).train()
    return LoadedModel(model, weights, shared.config.variant, shared.config.checkpoint)


def _preset(
    name: str | None, source: str | os.PathLike[str], weights: WeightsFile
) -> tuple[Variant, Checkpoint]:
    """Return the variant and the published weights that a file's weights belong to.

    They are those of the model's name if one is given, else those that the weights' name says, else
    those of the variant that the weights' shapes show. A name without a tag leaves it to the file's
    name which of the variant's weights they are.
    """
    from .checkpoints.errors import file_error

    file_name = weights.metadata.get("source_file", weights.path.name)
    if name is not None:
        variant, checkpoint = find_checkpoint(name)
        if "." in name:
            return variant, checkpoint
    else:
        if isinstance(source, str) and not Path(source).is_file():
            with contextlib.suppress(ValueError):  # then it is not a model's name but a Hub file's
                return find_checkpoint(source)
        shown = weights.architecture.variant if weights.architecture else None
        if shown is None:
            raise file_error(
                weights.path,
                "its shapes are those of no model known by name; say which with --model",
            )
        variant, checkpoint = shown, shown.default
    named = (candidate for candidate in variant.checkpoints if candidate.file == file_name)
    return variant, next(named, checkpoint)


def _build(
    variant: Variant, checkpoint: Checkpoint, weights: WeightsFile | None, options: dict[str, Any]
) -> TransNeXt:
    """Build a model of `variant`, with the weights that were read, or random ones for None."""
    arguments = architecture_arguments(variant)
    arguments |= {"img_size": checkpoint.img_size, "num_classes": checkpoint.num_classes}
    if weights is not None and weights.architecture and weights.architecture.num_classes:
        arguments["num_classes"] = weights.architecture.num_classes
    arguments |= options
    if weights is None:
        model = TransNeXt(**arguments)
    else:
        from .checkpoints.metadata import believed_class_names
        from .checkpoints.pretrained import build_fitted

        new_head = "num_classes" in options
        model = build_fitted(lambda: TransNeXt(**arguments), weights, new_head=new_head)
    model.default_cfg = model.pretrained_cfg = pretrained_config(variant, checkpoint)
    if weights is not None and isinstance(names := believed_class_names(weights), list):
        model.pretrained_cfg["label_names"] = names  # with which the model is shared
    return model
