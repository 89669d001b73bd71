"""What a run trains and how: its options over its recipe over the variant of its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..classification.preprocess import WARP_FROM, Preprocess
from ..variants import find_checkpoint
from .options import RunOptions
from .recipe_files import chosen_recipe
from .recipes import Recipe

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """Options over recipe over variant: what a run trains, and how.

    `pretrain_size` is that of a model without weights; weights bring their own (see `parts`).
    `num_classes` is None where the data decide it.
    """

    recipe: Recipe
    model_name: str
    img_size: int
    pretrain_size: int
    num_classes: int | None
    weights: str | None
    drop_path: float
    batch_size: int
    accumulate: int
    total_batch: int
    epochs: int
    peak_lr: float
    preprocess: Preprocess

    @classmethod
    def of(
        cls,
        options: RunOptions,
        processes: int,
        configuration: Mapping[str, Any] | None = None,
    ) -> Settings:
        """Return the settings of a run on so many processes.

        Parameters
        ----------
        configuration : Mapping[str, Any] | None
            Of a run that is continued or repeated.

        Raises
        ------
        ValueError
            The recipe or the model is not known.
        """
        recipe = chosen_recipe(options, configuration)
        model_name = options.model or recipe.model
        variant, published = find_checkpoint(model_name)
        img_size = options.img_size or recipe.img_size or published.img_size
        batch_size = options.batch_size or recipe.batch_size
        total_batch = batch_size * options.accumulate * processes
        scale = total_batch / recipe.total_batch
        crop = (recipe.crop_mode, recipe.crop_pct)
        if recipe.data == "images" and img_size >= WARP_FROM:
            crop = ("squash", 1.0)  # as published, whatever the recipe was made for
        elif not recipe.crop_mode:
            crop = (published.crop_mode, published.crop_pct)
        return cls(
            recipe=recipe,
            model_name=model_name,
            img_size=img_size,
            pretrain_size=options.pretrain_size or recipe.pretrain_size or variant.pretrain_size,
            num_classes=options.num_classes or recipe.num_classes or None,
            weights=options.weights or (model_name if recipe.pretrained else None),
            drop_path=recipe.drop_path.get(variant.name, variant.drop_path_rate),
            batch_size=batch_size,
            accumulate=options.accumulate,
            total_batch=total_batch,
            epochs=options.epochs or recipe.epochs,
            peak_lr=options.lr or recipe.lr * (scale if options.scale_lr else 1.0),
            preprocess=Preprocess(
                img_size,
                published.mean,
                published.std,
                *crop,
                published.interpolation,
            ),
        )

    @property
    def validate_every(self) -> int:
        """Epochs between two validations."""
        return self.recipe.validate_every

    @property
    def learning_rate_factor(self) -> float:
        """What multiplies every rate of the recipe."""
        return self.peak_lr / self.recipe.lr
