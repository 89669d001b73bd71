"""Which parameters decay, and which learn at a rate of their own.

Source: the published configurations, whose optimisers were built and counted. Two things about
them surprise. Mask R-CNN and UPerNet decay biases, DINO and Mask2Former do not. And the lists of
the latter two stop one stage short: ``patch_embed4`` and ``norm4`` learn at the rate of the heads.
"""

from __future__ import annotations

import fnmatch
from typing import Any

from torch import nn

from ..dense.published import METHODS
from .recipes import DenseRecipe

__all__ = ["parameter_groups"]

_BACKBONE = "backbone."
_SLIP = ("backbone.patch_embed4.", "backbone.norm4.")
_OF_CLASSES = {name.partition("_")[0]: method.class_parameters for name, method in METHODS.items()}
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


def parameter_groups(model: nn.Module, recipe: DenseRecipe) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups of one rate and one decay.

    Parameters
    ----------
    model : nn.Module
        A detector or segmentor.
    recipe : DenseRecipe
        Says which; see there.

    Returns
    -------
    Groups for PyTorch's optimisers, with ``lr_scale``, the factor on the rate, and ``names``; the
    heads' before the backbone's, the decayed before the others.
    """
    norms = {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if isinstance(module, _NORMS)
        for own, _ in module.named_parameters(recurse=False)
    }
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        key = (_factor(name, recipe), _decay(name, recipe, norms))
        group = groups.setdefault(
            key, {"params": [], "names": [], "lr_scale": key[0], "weight_decay": key[1]}
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups, reverse=True)]


def _factor(name: str, recipe: DenseRecipe) -> float:
    if recipe.class_lr_factor != 1 and name.startswith(_OF_CLASSES[recipe.method]):
        return recipe.class_lr_factor
    if not name.startswith(_BACKBONE) or (recipe.published_slip and name.startswith(_SLIP)):
        return 1.0
    return recipe.backbone_lr_factor


def _decay(name: str, recipe: DenseRecipe, norms: set[str]) -> float:
    is_spared = any(fnmatch.fnmatchcase(name, f"*{part}*") for part in recipe.no_weight_decay)
    if recipe.spares_biases:
        is_spared = is_spared or name in norms or name.endswith((".bias", ".in_proj_bias"))
    return 0.0 if is_spared else recipe.weight_decay
