"""A recipe as it is in a run's configuration: read back, and changed by options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from .options import RunOptions
from .recipes import ImageAugmentation, Recipe, get_recipe

__all__ = ["chosen_recipe", "known_fields", "recipe_from"]

_CHANGES = (
    "layer_decay",
    "freeze",
    "linear_probe",
    "class_weights",
    "early_stop",
    "fused",
    "decoder",
)
"""Fields of a recipe for which there is an option of the same name; None and False change none."""


def chosen_recipe(options: RunOptions, configuration: Mapping[str, Any] | None) -> Recipe:
    """Return the recipe of a run, with what the options change about it.

    Parameters
    ----------
    configuration : Mapping[str, Any] | None
        Of a run to continue or to repeat: the recipe is the one that is written there, whatever
        this version has under its name.

    Raises
    ------
    ValueError
        The recipe is not known, or none of this version's.
    """
    stored = {} if configuration is None else configuration.get("recipe", {})
    if stored.get("name") == options.recipe:
        recipe = recipe_from(stored)
    else:
        recipe = get_recipe(options.recipe)
    changes = {name: getattr(options, name) for name in _CHANGES}
    changes = {name: value for name, value in changes.items() if value not in (None, False)}
    if options.cuda_graphs:
        changes["fused"] = True  # the other implementations ask the device
    if options.keep_scaler:
        changes["fresh_scaler"] = False
    if options.ema_decay is not None:
        changes["ema_decay"] = options.ema_decay or None
    recipe = dataclasses.replace(recipe, **changes)
    if recipe.decoder != "exact" and recipe.data != "images":
        raise ValueError(
            f"--decoder: got {recipe.decoder!r}, needs 'exact' for recipe {recipe.name!r}, whose "
            "images are no files"
        )
    if recipe.linear_probe and recipe.freeze is not None:
        raise ValueError(
            f"--freeze: got {recipe.freeze!r} together with --linear-probe, needs one of the two"
        )
    return recipe


def recipe_from(stored: Mapping[str, Any]) -> Recipe:
    """Return the recipe that a run has written down; what it did not know yet is not changed.

    Raises
    ------
    ValueError
        It has something that this version does not know.
    """
    values = known_fields(Recipe, stored)
    augmentation = values.get("augmentation")
    if augmentation is not None:
        try:
            values["augmentation"] = ImageAugmentation(**augmentation)
        except TypeError as error:
            raise ValueError(
                f"recipe: its augmentation is unlike this version's: {error}"
            ) from None
    return Recipe(**values)


def known_fields(kind: type[Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a recipe of that kind as they were written down, lists as tuples.

    Raises
    ------
    ValueError
        There is one that this version does not know, or one lacks that has no default.
    """
    known = {field.name: field for field in dataclasses.fields(kind)}
    missing = [
        name
        for name, field in known.items()
        if name not in stored
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if (unknown := sorted(set(stored) - set(known))) or missing:
        what = f"has {unknown[0]!r}" if unknown else f"lacks {missing[0]!r}"
        raise ValueError(f"recipe: the one in the configuration {what}, unlike this version's")
    return {name: tuple(x) if isinstance(x, list) else x for name, x in stored.items()}
