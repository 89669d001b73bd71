"""What a run trains and how: its options over its recipe over the variant of its model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..classification.preprocess import Preprocess
from ..variants import find_checkpoint
from .options import RunOptions
from .recipes import Recipe, get_recipe

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """Options over recipe over variant: what a run trains, and how.

    `pretrain_size` is that of a model without weights; weights bring their own (see `parts`).
    """

    recipe: Recipe
    model_name: str
    img_size: int
    pretrain_size: int
    num_classes: int
    drop_path: float
    batch_size: int
    total_batch: int
    epochs: int
    peak_lr: float
    preprocess: Preprocess

    @classmethod
    def of(cls, options: RunOptions, processes: int) -> Settings:
        """Return the settings of a run on so many processes.

        Raises
        ------
        ValueError
            The recipe or the model is not known.
        """
        recipe = _recipe(options)
        model_name = options.model or recipe.model
        variant, published = find_checkpoint(model_name)
        img_size = options.img_size or recipe.img_size
        batch_size = options.batch_size or recipe.batch_size
        total_batch = batch_size * options.accumulate * processes
        scale = total_batch / recipe.total_batch
        return cls(
            recipe=recipe,
            model_name=model_name,
            img_size=img_size,
            pretrain_size=options.pretrain_size or recipe.pretrain_size or variant.pretrain_size,
            num_classes=options.num_classes or recipe.num_classes,
            drop_path=recipe.drop_path.get(variant.name, variant.drop_path_rate),
            batch_size=batch_size,
            total_batch=total_batch,
            epochs=options.epochs or recipe.epochs,
            peak_lr=options.lr or recipe.lr * (scale if options.scale_lr else 1.0),
            preprocess=Preprocess(
                img_size,
                published.mean,
                published.std,
                recipe.crop_mode,
                recipe.crop_pct,
                published.interpolation,
            ),
        )

    @property
    def learning_rate_factor(self) -> float:
        """What multiplies every rate of the recipe."""
        return self.peak_lr / self.recipe.lr


def _recipe(options: RunOptions) -> Recipe:
    """Return the recipe with what the options change about it."""
    changes: dict[str, Any] = {}
    if options.keep_scaler:
        changes["fresh_scaler"] = False
    if options.fused:
        changes["fused"] = True
    return dataclasses.replace(get_recipe(options.recipe), **changes)
