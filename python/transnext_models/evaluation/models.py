"""The models that are evaluated: TransNeXt in its modes, and any model of timm."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from transnext_ops.distribution import install_hint

from ..checkpoints import WeightsWarning, read_weights
from ..checkpoints import class_names as own_class_names
from ..checkpoints.digest import sha256
from ..classification.classifier import (
    DEFAULT_MODEL,
    attention_backend,
    check_channels,
)
from ..classification.labels import class_names
from ..classification.preprocess import WARP_FROM, Preprocess
from ..registry import load_model
from ..transnext import TransNeXt
from .class_lists import wnids
from .engine import PRECISIONS
from .preparation import CorruptedPreprocess, Prepare

__all__ = ["MODES", "TIMM", "Built", "EvaluatedModel", "load_evaluated", "mode_options"]

MODES = ("normal", "linear", "interpolate", "no-length-scaling")
"""Of one set of weights at another image size than that of its training; see `mode_options`."""

TIMM = "timm/"
_IMAGENET_CLASSES = 1000


class Built(NamedTuple):
    """A model ready to run, and what rows say about how it was built."""

    module: nn.Module
    pool: str
    position_bias: str
    backend: str


@dataclass(frozen=True)
class EvaluatedModel:
    """Weights to be evaluated.

    Attributes
    ----------
    name : str
        ``architecture.tag``, or timm's name after ``timm/``.
    weights, weights_sha256 : str
        Where they came from; the SHA-256 of their file, or of their values where timm loaded them.
    parameters : int
    class_folders : sequence of str
        Names of the classes' folders, in the order of the logits.
    is_imagenet : bool
        Whether these are the 1000 classes of ImageNet-1K.
    own_size : int
        Side of the images of training.
    modes : sequence of str
        Those that the model knows.
    build : callable
        Builds the model in a mode, on a device, for a precision.
    normal, corrupted : callable
        The preparation of images, and of ImageNet-C's, for a size.
    """

    name: str
    weights: str
    weights_sha256: str
    parameters: int
    class_folders: Sequence[str]
    is_imagenet: bool
    own_size: int
    modes: Sequence[str]
    build: Callable[[str, torch.device, str], Built]
    normal: Callable[[int], Prepare]
    corrupted: Callable[[int], Prepare]


def load_evaluated(
    model: str | None,
    weights: str | Path | None = None,
    *,
    key: str | None = None,
    backend: str | None = None,
) -> EvaluatedModel:
    """Load weights for evaluation.

    Parameters
    ----------
    model : str | None
        A model's name, one of timm's after ``timm/``, or None for that of the weights.
    weights : str | Path | None
        A file, a published name or a file on the Hub; None for the model's published weights.
    key : str | None
        Which state dict, where the file has several.
    backend : str | None
        Operator backend of a TransNeXt.

    Raises
    ------
    ValueError, RuntimeError
        If there are no such weights, or they cannot be used.
    """
    if model is not None and model.startswith(TIMM):
        if backend is not None:
            raise ValueError(f"backend: got {backend!r}, needs a TransNeXt: {model} has none")
        return _timm_model(model.removeprefix(TIMM), weights, key)
    return _transnext(model, weights, key, backend)


# -- TransNeXt ------------------------------------------------------------------------------------


def _transnext(
    model: str | None, weights: str | Path | None, key: str | None, backend: str | None
) -> EvaluatedModel:
    source = weights if weights is not None else model or DEFAULT_MODEL
    loaded = load_model(model, source, key=key, check=check_channels)
    file, checkpoint = loaded.weights, loaded.checkpoint
    num_classes = loaded.model.num_classes
    folders = own_class_names(file)
    if folders is None and checkpoint.labels == "imagenet_1k" and num_classes == _IMAGENET_CLASSES:
        folders = list(wnids())
    is_imagenet = folders is not None and num_classes == _IMAGENET_CLASSES
    is_imagenet = is_imagenet and tuple(folders or ()) == wnids()

    def build(mode: str, device: torch.device, precision: str) -> Built:
        options = mode_options(mode, loaded.model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", WeightsWarning)  # said above
            built = load_model(
                model, source, key=key, check=check_channels, backend=backend, **options
            )
        module = built.model.to(device).freeze()
        pool = module.fixed_pool_size
        return Built(
            module,
            "ratio" if pool is None else str(pool),
            module.position_bias,
            attention_backend(module, PRECISIONS[precision]),
        )

    return EvaluatedModel(
        name=f"{loaded.variant.name}.{checkpoint.tag}",
        weights=str(source),
        weights_sha256=sha256(file.path),
        parameters=sum(p.numel() for p in loaded.model.parameters()),
        class_folders=folders or class_names(checkpoint.labels, num_classes),
        is_imagenet=is_imagenet,
        own_size=loaded.model.img_size,
        modes=MODES,
        build=build,
        normal=lambda size: Preprocess.of(checkpoint, size),
        corrupted=lambda size: CorruptedPreprocess(
            size, checkpoint.mean, checkpoint.std, checkpoint.interpolation
        ),
    )


def mode_options(mode: str, model: TransNeXt) -> dict[str, Any]:
    """Return how a mode's model is built.

    "linear" fixes the pooled grid at that of the size that the position bias was trained at, 7x7
    for 224; "interpolate" resizes the training size's position bias; "no-length-scaling" keeps the
    logits' length scale of the training size.
    """
    if mode == "linear":
        return {"fixed_pool_size": max(1, model.pretrain_size // (4 * model.sr_ratios[0]))}
    if mode == "interpolate":
        return {"position_bias": "interpolate"}
    return {"length_scaling": "training"} if mode == "no-length-scaling" else {}


# -- timm -----------------------------------------------------------------------------------------


def _timm_model(name: str, weights: str | Path | None, key: str | None) -> EvaluatedModel:
    try:
        import timm
    except ImportError:
        raise RuntimeError(
            f"timm/{name} needs the package timm: {install_hint('evaluate')}"
        ) from None
    try:
        module: Any = timm.create_model(name, pretrained=weights is None)
    except RuntimeError as error:
        raise ValueError(f"model: got timm/{name}, needs one that timm has: {error}") from error
    except OSError as error:
        raise RuntimeError(f"model: the weights of timm/{name} cannot be had: {error}") from error
    if weights is not None:
        _load_state_dict(module, Path(weights), key)
    config: Mapping[str, Any] = module.pretrained_cfg
    own_size = int(config["input_size"][1])
    num_classes = int(module.num_classes)
    is_imagenet = num_classes == _IMAGENET_CLASSES
    mean, std = tuple(config["mean"]), tuple(config["std"])
    interpolation = str(config["interpolation"])

    def build(mode: str, device: torch.device, precision: str) -> Built:
        return Built(module.to(device).eval(), "", "", "torch")

    def normal(size: int) -> Prepare:
        """Prepare images by the published rule, as for TransNeXt's own weights."""
        if config.get("fixed_input_size") and size != own_size:
            raise ValueError(f"size: got {size}, needs {own_size}: timm/{name} takes no other")
        mode, pct = ("squash", 1.0) if size >= WARP_FROM else ("center", 0.875)
        return Preprocess(size, mean, std, mode, pct, interpolation)

    return EvaluatedModel(
        name=TIMM + name,
        weights=str(weights) if weights is not None else f"timm's {name}",
        weights_sha256=_digest(module),
        parameters=sum(p.numel() for p in module.parameters()),
        class_folders=list(wnids()) if is_imagenet else class_names("", num_classes),
        is_imagenet=is_imagenet,
        own_size=own_size,
        modes=("normal",),
        build=build,
        normal=normal,
        corrupted=lambda size: CorruptedPreprocess(size, mean, std, interpolation),
    )


def _load_state_dict(module: nn.Module, weights: Path, key: str | None) -> None:
    """Load a file without running anything in it."""
    file = read_weights(weights, key=key, strict=False)
    try:
        missing, unexpected = module.load_state_dict(file.state_dict, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{weights}: does not fit the model: {error}") from error
    # Counters such as `num_batches_tracked` are no weights and say nothing in evaluation.
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        first = (missing or unexpected)[0]
        raise ValueError(
            f"{weights}: does not fit the model: {len(missing)} entries missing, "
            f"{len(unexpected)} too many, {first} among them"
        )


def _digest(module: nn.Module) -> str:
    """Return the SHA-256 of the names and values of a state dict."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
