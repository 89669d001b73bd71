"""Which parameters of a model stay as they are: whole stages, names, or all but the classifier."""

from __future__ import annotations

import fnmatch

from torch import nn

from .recipes import Recipe

__all__ = ["freeze_named", "freeze_parameters", "resting_modules"]

_STAGE_PARTS = ("patch_embed", "block", "norm")
_HEAD = "head."


def freeze_parameters(model: nn.Module, recipe: Recipe) -> None:
    """Take the parameters that the recipe freezes out of training.

    Parameters
    ----------
    model : nn.Module
        A `TransNeXt`.
    recipe : Recipe
        Its `freeze` is a number of stages from the first on, or patterns of parameters' names
        separated by commas; its `linear_probe` freezes all but the classifier.

    Raises
    ------
    ValueError
        A pattern fits no parameter, there are fewer stages, or nothing is left to train.
    """
    if recipe.linear_probe:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(_HEAD))
    else:
        freeze_named(model, recipe.freeze)


def freeze_named(model: nn.Module, what: str | None, backbone: str = "") -> None:
    """Take the parameters of stages or names out of training.

    Parameters
    ----------
    model : nn.Module
        A `TransNeXt`, or a model on one.
    what : str | None
        A number of stages from the first on, or patterns of parameters' names separated by commas;
        None for nothing.
    backbone : str
        What names of the stages begin with.

    Raises
    ------
    ValueError
        A pattern fits no parameter, there are fewer stages, or nothing is left to train.
    """
    if what is None:
        return
    names = [name for name, _ in model.named_parameters()]
    frozen = _frozen(names, what, backbone)
    if len(frozen) == len(names):
        raise ValueError(f"--freeze: got {what!r}, which leaves nothing to train, needs fewer")
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)


def resting_modules(model: nn.Module) -> list[nn.Module]:
    """Return the largest modules that train nothing, which then drop no paths either."""
    parameters = list(model.parameters())
    if not parameters or any(parameter.requires_grad for parameter in parameters):
        return [found for child in model.children() for found in resting_modules(child)]
    return [model]


def _frozen(names: list[str], what: str, backbone: str) -> set[str]:
    patterns = [part.strip() for part in what.split(",")]
    if what.isdecimal():
        stages = range(1, int(what) + 1)
        patterns = [f"{backbone}{part}{stage}.*" for stage in stages for part in _STAGE_PARTS]
    frozen: set[str] = set()
    for pattern in patterns:
        # What a module's name fits is all of the module.
        found = {
            name
            for name in names
            if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")
        }
        if not found:
            raise ValueError(
                f"--freeze: got {what!r}, needs a number of stages or names of parameters; nothing "
                f"in the model fits {pattern!r}"
            )
        frozen |= found
    return frozen
