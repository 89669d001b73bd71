"""The learning rate of every optimiser step, as a factor on the recipe's."""

from __future__ import annotations

import math

from .recipes import DenseRecipe

__all__ = ["rate_factor"]


def rate_factor(recipe: DenseRecipe, step: int, steps: int, epochs: int) -> float:
    """Return what multiplies the rate in a step.

    Parameters
    ----------
    recipe : DenseRecipe
        Its schedule and warm-up. A run of another length has its milestones in proportion, and
        warms up for a tenth of it at most.
    step, steps : int
        Number of the step from 0, and of how many.
    epochs : int
        Of the run.
    """
    warmup = min(recipe.warmup_iterations, steps // 10)
    risen = 1.0
    if step < warmup:
        risen = 1 - (1 - step / warmup) * (1 - recipe.warmup_factor)
    return risen * _scheduled(recipe, step, steps, epochs)


def _scheduled(recipe: DenseRecipe, step: int, steps: int, epochs: int) -> float:
    if recipe.schedule == "step":
        epoch = step * epochs // steps
        factor = epochs / (recipe.epochs or epochs)
        passed = sum(epoch >= round(milestone * factor) for milestone in recipe.milestones)
        return recipe.gamma**passed
    done = min(step / max(steps - recipe.zero_at_last, 1), 1.0)
    if recipe.schedule == "poly":
        return float((1 - done) ** recipe.power)
    return (1 + math.cos(math.pi * done)) / 2
