"""What a run trains and how: its options over its recipe over the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..dense.published import DenseModel, find_dense_model
from ..dense_data.pipelines import Method, method_at
from ..training.recipe_files import known_fields
from .first_weights import scale_of
from .options import DenseOptions
from .recipes import DenseRecipe, get_recipe

__all__ = ["DenseSettings"]

_VALIDATIONS = 10  # of a run whose length is given in iterations, where its recipe has epochs


@dataclass(frozen=True)
class DenseSettings:
    """Options over recipe over model.

    Attributes
    ----------
    recipe : DenseRecipe
        With what the options change about it.
    model : DenseModel
        Which.
    scale : tuple[int, int]
        Long and short side of images; weights of another run bring theirs.
    method : Method
        What their data go through.
    img_size : int
        Side of the training grid of the backbone's position bias.
    epochs : int
        Of the run. Those of one in iterations are the parts between two validations.
    steps_per_epoch : int | None
        Optimiser steps of such a part; None for an epoch of all images.
    validate_every : int
        Epochs between two validations.
    """

    recipe: DenseRecipe
    model: DenseModel
    scale: tuple[int, int]
    method: Method
    img_size: int
    batch_size: int
    accumulate: int
    total_batch: int
    epochs: int
    steps_per_epoch: int | None
    validate_every: int
    peak_lr: float

    @property
    def model_name(self) -> str:
        """The model's name."""
        return self.model.name

    @property
    def drop_path(self) -> float:
        """Rate of stochastic depth."""
        rate = self.recipe.drop_path
        return self.model.drop_path_rate if rate is None else min(rate, self.model.drop_path_rate)

    @classmethod
    def of(
        cls,
        options: DenseOptions,
        default_model: str,
        processes: int,
        configuration: Mapping[str, Any] | None = None,
    ) -> DenseSettings:
        """Return the settings of a run on so many processes.

        Parameters
        ----------
        default_model : str
            Where the options name none.
        configuration : Mapping[str, Any] | None
            Of a run that is continued or repeated.

        Raises
        ------
        ValueError, RuntimeError
            The recipe or the model is not known; the weights cannot be used.
        """
        model = find_dense_model(options.model or default_model)
        recipe = _chosen(options, model, configuration)
        before = {} if configuration is None else configuration.get("resolved", {})
        scale = _scale(options, model, before)
        img_size = model.img_size
        if options.size is not None and options.weights is None:
            img_size = max(32, model.img_size * options.size // model.scale[1])
        if before.get("scale") == list(scale):
            img_size = before["img_size"]
        batch_size = options.batch_size or recipe.batch_size
        if recipe.method == "upernet" and batch_size < 2:
            raise ValueError(
                f"--batch-size: got {batch_size}, needs 2 at least: UPerNet's pooling is "
                "normalised over a batch"
            )
        accumulate = options.accumulate or recipe.accumulate
        total_batch = batch_size * accumulate * processes
        factor = total_batch / recipe.total_batch if options.scale_lr else 1.0
        epochs, steps, every = _length(options, recipe)
        return cls(
            recipe=recipe,
            model=model,
            scale=scale,
            method=method_at(recipe.method, scale, recipe.jitter, flips=recipe.flips),
            img_size=img_size,
            batch_size=batch_size,
            accumulate=accumulate,
            total_batch=total_batch,
            epochs=epochs,
            steps_per_epoch=steps,
            validate_every=every,
            peak_lr=options.lr or recipe.lr * factor,
        )


def _scale(options: DenseOptions, model: DenseModel, before: Mapping[str, Any]) -> tuple[int, int]:
    """Return what images are resized into: as asked, as before, as the weights say, or usual."""
    long, short = model.scale
    if options.size is not None:
        return long * options.size // short, options.size
    if before.get("model") == model.name and "scale" in before:
        return before["scale"][0], before["scale"][1]
    return (None if options.weights is None else scale_of(options.weights)) or model.scale


def _chosen(
    options: DenseOptions, model: DenseModel, configuration: Mapping[str, Any] | None
) -> DenseRecipe:
    stored = {} if configuration is None else configuration.get("recipe", {})
    recipe = get_recipe(options.recipe, model)
    if (stored.get("name"), stored.get("method")) == (recipe.name, recipe.method):
        recipe = DenseRecipe(**known_fields(DenseRecipe, stored))
    elif options.weights is None:  # then all heads are new
        recipe = dataclasses.replace(recipe, class_lr_factor=1.0)
    changes: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("freeze", "early_stop", "published_slip")
        if getattr(options, name) is not None
    }
    if options.ema_decay is not None:
        changes["ema_decay"] = options.ema_decay or None
    return dataclasses.replace(recipe, **changes)


def _length(options: DenseOptions, recipe: DenseRecipe) -> tuple[int, int | None, int]:
    """Return epochs, steps of each (None for all images), and epochs between validations."""
    iterations = options.iterations
    if iterations is None and options.epochs is None:
        iterations = recipe.iterations
    if iterations is None:
        every = recipe.validate_every if recipe.epochs is not None else 1
        epochs = options.epochs or recipe.epochs
        assert epochs is not None
        return epochs, None, options.validate_every or every
    every = options.validate_every or (
        recipe.validate_every if recipe.iterations is not None else -(-iterations // _VALIDATIONS)
    )
    parts = -(-iterations // every)
    # All parts are as long; what does not divide is rounded up.
    return parts, -(-iterations // parts), 1
