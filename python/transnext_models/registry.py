"""Build models by name."""

from __future__ import annotations

import inspect
import os
from typing import Any

from .transnext import TransNeXt
from .variants import VARIANTS, Checkpoint, Variant, find_checkpoint

__all__ = ["create_model", "list_models", "pretrained_config"]

_OPTIONS = tuple(name for name in inspect.signature(TransNeXt).parameters)


def list_models(*, pretrained: bool = False) -> list[str]:
    """Names that :func:`create_model` knows.

    Parameters
    ----------
    pretrained : bool
        List ``architecture.tag`` of every checkpoint instead of the architectures.
    """
    if not pretrained:
        return list(VARIANTS)
    return [f"{v.name}.{c.tag}" for v in VARIANTS.values() for c in v.checkpoints]


def create_model(
    name: str,
    pretrained: bool = False,
    weights: str | os.PathLike[str] | None = None,
    **options: Any,
) -> TransNeXt:
    """Build a model, with random, published or given weights.

    Parameters
    ----------
    name : str
        ``architecture`` or ``architecture.tag``, see :func:`list_models`. The tag picks published
        weights and the image size that goes with them.
    pretrained : bool
        Load the published weights, from the local cache or the Hugging Face Hub.
    weights : str | path | None
        Load these instead: a file, or a name that :mod:`transnext_models.hub` resolves.
    **options
        Any parameter of :class:`TransNeXt`, over those of the variant.

    Returns
    -------
    TransNeXt
        In training mode, as PyTorch's modules start.

    Raises
    ------
    ValueError
        If the name or an option's value is unknown.
    TypeError
        If an option is unknown.
    """
    variant, checkpoint = find_checkpoint(name)
    for option in options:
        if option not in _OPTIONS:
            known = ", ".join(_OPTIONS)
            raise TypeError(f"create_model: unknown option {option!r}; known options: {known}")
    if pretrained and weights is not None:
        raise ValueError("weights: give either pretrained=True or weights, not both")
    model = TransNeXt(**{**_arguments(variant, checkpoint), **options})
    model.default_cfg = model.pretrained_cfg = pretrained_config(variant, checkpoint)
    if pretrained or weights is not None:
        from .checkpoints import load_checkpoint
        from .hub import resolve_weights

        source = f"{variant.name}.{checkpoint.tag}" if weights is None else weights
        load_checkpoint(model, resolve_weights(source))
    return model


def _arguments(variant: Variant, checkpoint: Checkpoint) -> dict[str, Any]:
    """What the class needs to build ``variant`` as ``checkpoint`` was trained."""
    return {
        "embed_dims": variant.embed_dims,
        "num_heads": variant.num_heads,
        "depths": variant.depths,
        "mlp_ratios": variant.mlp_ratios,
        "sr_ratios": variant.sr_ratios,
        "window_size": variant.window_size,
        "qkv_bias": variant.qkv_bias,
        "drop_path_rate": variant.drop_path_rate,
        "pretrain_size": variant.pretrain_size,
        "in_chans": variant.in_chans,
        "img_size": checkpoint.img_size,
        "num_classes": checkpoint.num_classes,
    }


def pretrained_config(variant: Variant, checkpoint: Checkpoint) -> dict[str, Any]:
    """The checkpoint in the terms of timm's ``pretrained_cfg``."""
    side = checkpoint.img_size
    return {
        "architecture": variant.name,
        "tag": checkpoint.tag,
        "hf_hub_id": checkpoint.repo,
        "hf_hub_filename": checkpoint.file,
        "input_size": (variant.in_chans, side, side),
        "min_input_size": (variant.in_chans, 32, 32),
        "fixed_input_size": False,
        "interpolation": checkpoint.interpolation,
        "crop_pct": checkpoint.crop_pct,
        "crop_mode": checkpoint.crop_mode,
        "mean": checkpoint.mean,
        "std": checkpoint.std,
        "num_classes": checkpoint.num_classes,
        "first_conv": "patch_embed1.proj",
        "classifier": "head",
        "license": "apache-2.0",
        "paper_name": "TransNeXt: Robust Foveal Visual Perception for Vision Transformers",
        "paper_ids": "arXiv:2311.17132",
    }
