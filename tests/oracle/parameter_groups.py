"""Compare parameter groups with those that MMEngine builds: tests/oracle/parameter_groups.py.

Their configurations say lists of parts of names; those here are written from what the published
optimisers were counted to have, which is compared as well.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from typing import Any

import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from oracle.openmmlab import report
from transnext_models import create_model
from transnext_models.dense.published import find_dense_model
from transnext_models.dense_training.parameter_groups import parameter_groups
from transnext_models.dense_training.recipes import published

Rates = dict[str, tuple[float, float]]  # of a parameter's name: learning rate and weight decay

OF_THE_BACKBONE = ("query_embedding", "relative_pos_bias_local", "cpb", "temperature")
NORMS = (nn.LayerNorm, nn.GroupNorm)
SLOW, FAST = 1e-5, 1e-4
COUNTS = {
    "maskrcnn_transnext_tiny": {(1e-4, 0.05): 374, (1e-4, 0.0): 283},
    "upernet_transnext_tiny": {(6e-5, 0.05): 375, (6e-5, 0.0): 283},
    "dino_4scale_transnext_tiny": {
        (FAST, 0.05): 123, (SLOW, 0.05): 184, (SLOW, 0.0): 425, (FAST, 0.0): 192,
    },
    "mask2former_transnext_tiny": {
        (FAST, 0.05): 102, (SLOW, 0.05): 184, (SLOW, 0.0): 425, (FAST, 0.0): 196,
    },
}  # fmt: skip


def whole_names() -> dict[str, Any]:
    """Return the names of Mask R-CNN and UPerNet without decay; biases have it."""
    return {"custom_keys": {name: {"decay_mult": 0.0} for name in (*OF_THE_BACKBONE, "norm")}}


def two_rates(model: nn.Module, *undecayed: str) -> dict[str, Any]:
    """Return those of DINO and Mask2Former: the backbone but for the last stage's ends is slow.

    MMEngine's rules for biases and norms count only where no name does, so that those of the
    backbone are named one by one; and its rule knows no ``in_proj_bias``, which the counts of the
    published optimisers say did not decay.
    """
    spared_names = ("in_proj_bias", *undecayed)
    keys: dict[str, Any] = {name: {"decay_mult": 0.0} for name in spared_names}
    stages = [f"patch_embed{i}" for i in (1, 2, 3)] + [f"norm{i}" for i in (1, 2, 3)]
    stages += [f"block{i}" for i in (1, 2, 3, 4)]
    for stage in stages:
        keys[f"backbone.{stage}"] = {"lr_mult": 0.1}
        for name, module in model.backbone.get_submodule(stage).named_modules():
            prefix = f"backbone.{stage}.{name}".rstrip(".")
            for own, _ in module.named_parameters(recurse=False):
                spared = own == "bias" or isinstance(module, NORMS)
                if spared or any(part in f"{name}.{own}" for part in OF_THE_BACKBONE):
                    keys[f"{prefix}.{own}"] = {"lr_mult": 0.1, "decay_mult": 0.0}
    return {"custom_keys": keys, "bias_decay_mult": 0.0, "norm_decay_mult": 0.0}


def names_of(model: nn.Module, groups: list[dict[str, Any]], lr: float | None = None) -> Rates:
    """Return rate and decay of every parameter; ``lr`` is what ``lr_scale`` is a factor on."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: Rates = {}
    for group in groups:
        rate = group["lr"] if lr is None else lr * group["lr_scale"]
        for parameter in group["params"]:
            found[names[id(parameter)]] = (round(rate, 12), round(group["weight_decay"], 12))
    return found


def theirs(model: nn.Module, lr: float, paramwise: dict[str, Any]) -> Rates:
    """Return what MMEngine's constructor makes of a configuration."""
    optimizer = {"type": "AdamW", "lr": lr, "betas": (0.9, 0.999), "weight_decay": 0.05}
    config = {"type": "OptimWrapper", "optimizer": optimizer, "paramwise_cfg": paramwise}
    return names_of(model, build_optim_wrapper(model, config).optimizer.param_groups)


def main() -> int:
    """Compare the four methods of Tiny; return the exit code."""
    logging.disable(logging.INFO)  # a line for every parameter
    fine = True
    for name, counts in COUNTS.items():
        with torch.device("meta"):
            model = create_model(name)
        if name.startswith("dino"):
            paramwise = two_rates(model)
        elif name.startswith("mask2former"):
            paramwise = two_rates(model, "query_embed", "query_feat", "level_embed")
        else:
            paramwise = whole_names()
        recipe = published(find_dense_model(name))
        expected = theirs(model, recipe.lr, paramwise)
        found = names_of(model, parameter_groups(model, recipe), recipe.lr)
        assert set(found) == set(expected)
        different = sum(found[key] != expected[key] for key in expected)
        fine &= report(f"{name}: that differ", different, 0)
        counted = Counter(expected.values())
        wrong = sum(counted[key] != counts.get(key, 0) for key in counted | counts)
        fine &= report(f"{name}: groups miscounted", wrong, 0)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
