"""The training step and the optimiser of a detector or segmentor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lightning.fabric import Fabric
from torch import Tensor, nn

from ..dense_data.batches import DenseBatch
from ..detection import Annotated
from ..segmentation import total_loss
from ..training.optimisation import adamw
from ..training.trained import Measures, TrainingModule
from .parameter_groups import parameter_groups
from .rates import rate_factor
from .settings import DenseSettings

__all__ = ["DenseModule"]


class DenseModule(TrainingModule):
    """Trains a detector or segmentor by a recipe.

    Parameters
    ----------
    model : nn.Module
        With a method ``loss``.
    settings : DenseSettings
        Recipe, rate and length.
    steps_per_epoch : int
        Optimiser steps.
    score : str
        The measure that tells the best validation.
    measure : Callable[[nn.Module, Fabric], Measures]
        Returns what measures a validation.
    sharded : bool
        See `training.optimisation.adamw`.
    """

    changes_rate_in_epochs = True

    def __init__(
        self,
        model: nn.Module,
        settings: DenseSettings,
        steps_per_epoch: int,
        score: str,
        measure: Callable[[nn.Module, Fabric], Measures],
        sharded: bool = False,
    ) -> None:
        recipe = settings.recipe
        groups = [
            {name: value for name, value in group.items() if name != "names"}
            for group in parameter_groups(model, recipe)
        ]
        optimizer = adamw(groups, settings.peak_lr, sharded, betas=recipe.betas, eps=recipe.eps)
        super().__init__(model, recipe, optimizer, _LossOf(model))
        self.score = score  # type: ignore[misc]
        self._settings = settings
        self._steps = steps_per_epoch
        self._measure = measure

    def training_step(self, batch: DenseBatch) -> Tensor:
        """Return the sum of all losses."""
        loss: Tensor = self.network(
            batch.images, batch.sizes, batch.boxes, batch.labels, batch.masks, batch.label_maps
        )
        return loss

    def set_rate(self, epoch: int, step: int = 0) -> float:
        """Set the rate of a step of an epoch, and return that of the heads."""
        settings, steps = self._settings, self._steps
        number, total = epoch * steps + step, settings.epochs * steps
        rate = settings.peak_lr * rate_factor(settings.recipe, number, total, settings.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        return rate

    def measures(self, model: nn.Module, fabric: Fabric) -> Measures:
        """Return what measures a validation."""
        return self._measure(model, fabric)


class _LossOf(nn.Module):
    """The losses of a model as a module of its own, which several processes can wrap."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        images: Tensor,
        sizes: Sequence[tuple[int, int]],
        boxes: Sequence[Tensor] | None,
        labels: Sequence[Tensor] | None,
        masks: Sequence[Tensor] | None,
        label_maps: Tensor | None,
    ) -> Tensor:
        """Return the total loss of a batch; see `DenseBatch`."""
        if label_maps is not None:
            return total_loss(self.model.loss(images, label_maps))
        assert boxes is not None
        assert labels is not None
        targets = [
            Annotated(
                (int(size[0]), int(size[1])),
                boxes[index],
                labels[index],
                None if masks is None else masks[index].bool(),
            )
            for index, size in enumerate(sizes)
        ]
        return total_loss(self.model.loss(images, targets))
