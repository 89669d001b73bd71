"""From a recipe's numbers to timm's or PyTorch's optimiser, learning-rate schedule and loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .recipes import Recipe

if TYPE_CHECKING:
    from timm.scheduler.scheduler import Scheduler

__all__ = ["adamw", "build_optimizer", "build_schedule", "parameter_groups", "whole_state"]


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Split trainable parameters into those that decay and those that do not.

    Not decayed, as published: 1-D parameters, biases, and names containing one of
    `recipe.no_weight_decay`.

    Returns
    -------
    Groups for any PyTorch optimiser, the undecayed first; a group without parameters is left out.
    With layer decay there are two of each layer, and ``lr_scale`` is a layer's factor on the rate.
    """
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    # Whole names: not every timm knows patterns, nor spares biases of more than one dimension.
    spared = [
        name
        for name, _ in model.named_parameters()
        if name.endswith(".bias") or any(part in name for part in recipe.no_weight_decay)
    ]
    if recipe.layer_decay is not None:
        return param_groups_layer_decay(
            model,
            weight_decay=recipe.weight_decay,
            no_weight_decay_list=spared,
            layer_decay=recipe.layer_decay,
        )
    return param_groups_weight_decay(
        model, weight_decay=recipe.weight_decay, no_weight_decay_list=spared
    )


def build_optimizer(
    model: nn.Module, recipe: Recipe, learning_rate_factor: float = 1.0, sharded: bool = False
) -> torch.optim.Optimizer:
    """Return the recipe's AdamW over `parameter_groups(model, recipe)`; see `adamw`."""
    return adamw(
        parameter_groups(model, recipe),
        recipe.lr * learning_rate_factor,
        sharded,
        weight_decay=recipe.weight_decay,
        betas=recipe.betas,
        eps=recipe.eps,
        **({"fused": True} if recipe.fused else {}),
    )


def adamw(
    groups: list[dict[str, Any]], lr: float, sharded: bool, **numbers: Any
) -> torch.optim.Optimizer:
    """Return AdamW over groups of parameters; ``lr_scale`` of a group multiplies its rate.

    Parameters
    ----------
    sharded : bool
        Whether each of several processes, which are connected, keeps the moments of a share of the
        parameters and broadcasts them after a step; the model is on its device.
    **numbers
        AdamW's, of groups that do not say otherwise.
    """
    from timm.optim import create_optimizer_v2

    numbers["lr"] = lr
    if sharded:
        from torch.distributed.optim import ZeroRedundancyOptimizer

        return ZeroRedundancyOptimizer(groups, torch.optim.AdamW, **numbers)
    return create_optimizer_v2(groups, opt="adamw", **numbers)


def whole_state(optimizer: torch.optim.Optimizer, is_first: bool) -> dict[str, Any]:
    """Return an optimiser's state on the first process, sharded or not; elsewhere nothing.

    All processes call it together. `load_state_dict` of either kind takes it.
    """
    from torch.distributed.optim import ZeroRedundancyOptimizer

    if isinstance(optimizer, ZeroRedundancyOptimizer):
        optimizer.consolidate_state_dict(to=0)
    return optimizer.state_dict() if is_first else {}


def build_schedule(
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    epochs: int,
    learning_rate_factor: float = 1.0,
) -> Scheduler | None:
    """Return timm's scheduler over epochs, None if the rate is constant.

    `scheduler.step(epoch)` sets the rate that the schedule has for that epoch; see
    `Recipe.delayed_rate` for which epoch trains at it.
    In the first `warmup_epochs` the rate rises linearly from `warmup_lr`; from then on it follows a
    cosine that began at epoch 0 (the warm-up covers its first part, as published) down to `min_lr`.
    A run shorter than twice the warm-up warms up for half of its epochs.

    Parameters
    ----------
    epochs : int
        Length of the run, which may differ from `recipe.epochs`.
    learning_rate_factor : float
        Multiplies every rate.
    """
    if recipe.schedule == "constant":
        return None
    from timm.scheduler import create_scheduler_v2

    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=recipe.schedule,
        num_epochs=epochs,
        min_lr=recipe.min_lr * learning_rate_factor,
        warmup_lr=recipe.warmup_lr * learning_rate_factor,
        warmup_epochs=min(recipe.warmup_epochs, epochs // 2),
    )
    return scheduler
