"""The training step, the measures of a validation, and the optimiser of a classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from .optimisation import build_optimizer, build_schedule
from .recipes import Recipe
from .trained import Measures, TrainingModule

if TYPE_CHECKING:
    from timm.scheduler.scheduler import Scheduler

__all__ = ["ClassifierModule", "logits_of"]


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor, fabric: Fabric) -> Tensor:
    """Return the logits [B, classes] of images on the device, in the precision of the run.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    """
    with fabric.autocast():
        logits: Tensor = model(fabric.strategy.precision.convert_input(images))
    return logits


class ClassifierModule(TrainingModule):
    """Trains `model` by `recipe`.

    Parameters
    ----------
    model : nn.Module
        Takes images, float [B, 3, H, W] to logits [B, classes].
    recipe : Recipe
        Hyper-parameters.
    epochs : int
        Length of the schedule.
    learning_rate_factor : float
        See `Recipe`.
    class_weights : Tensor | None
        Of the images of each class in the loss, float32 [classes]; None for equal ones.
    several_labels : bool
        Whether targets say of each class whether an image is of it: each is learnt by itself.
    shard_optimizer : bool
        See `build_optimizer`.
    """

    score = "val_top1"

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        epochs: int,
        learning_rate_factor: float = 1.0,
        class_weights: Tensor | None = None,
        several_labels: bool = False,
        shard_optimizer: bool = False,
    ) -> None:
        optimizer = build_optimizer(model, recipe, learning_rate_factor, shard_optimizer)
        super().__init__(model, recipe, optimizer)
        self.recipe = recipe
        self.class_weights = class_weights
        self.several_labels = several_labels
        self._peak = recipe.lr * learning_rate_factor
        self._schedule: Scheduler | None = build_schedule(
            optimizer, recipe, epochs, learning_rate_factor
        )

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss of images [B, 3, H, W] with their targets.

        These are int64 labels [B], soft targets [B, classes], or several labels, zeros and ones
        [B, classes].
        """
        images, targets = batch
        if self.several_labels:
            logits = self.network(images).float()
            return F.binary_cross_entropy_with_logits(
                logits, targets, pos_weight=self.class_weights
            )
        # Soft targets of mixup are smoothed already.
        smoothing = 0.0 if targets.is_floating_point() else self.recipe.label_smoothing
        logits = self.network(images).float()
        return F.cross_entropy(logits, targets, self.class_weights, label_smoothing=smoothing)

    def set_rate(self, epoch: int, step: int = 0) -> float:
        """Set the learning rate of `epoch`, and return it. It depends on nothing but the epoch.

        With layer decay it is that of the last layer, the classifier.
        """
        if self._schedule is not None:
            self._schedule.step(max(epoch - 1, 0) if self.recipe.delayed_rate else epoch)
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = self._peak * group.get("lr_scale", 1.0)
        largest = max(self.optimizer.param_groups, key=lambda group: group.get("lr_scale", 1.0))
        return float(largest["lr"])

    def measures(self, model: nn.Module, fabric: Fabric) -> Measures:
        """Return what measures loss and accuracy."""
        return _Accuracy(self, model, fabric)

    @staticmethod
    def measure(logits: Tensor, labels: Tensor) -> Tensor:
        """Return sums over a batch: loss, right answers, right among the best five, images.

        Parameters
        ----------
        logits : Tensor
            [B, classes].
        labels : Tensor
            int64 [B]; or zeros and ones [B, classes] of images with several labels, where an answer
            is right that is among them, and the loss is the mean over the classes.

        Returns
        -------
        float32 [4].
        """
        logits = logits.float()
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        if labels.ndim == 2:
            right = labels.gather(1, best) > 0
            losses = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
            loss = losses.mean(dim=1).sum()
        else:
            right = best == labels[:, None]
            loss = F.cross_entropy(logits, labels, reduction="sum")
        count = loss.new_tensor(float(len(labels)))
        return torch.stack([loss, right[:, 0].sum(), right.any(dim=1).sum(), count])


class _Accuracy(Measures):
    """Loss, and the shares of right answers, of every image."""

    def __init__(self, module: ClassifierModule, model: nn.Module, fabric: Fabric) -> None:
        self._module, self._model, self._fabric = module, model, fabric
        # Metal has no float64.
        dtype = torch.float32 if fabric.device.type == "mps" else torch.float64
        self._sums = torch.zeros(4, dtype=dtype, device=fabric.device)

    def add(self, batch: Any) -> None:
        """Take images [B, 3, H, W] and labels."""
        images, labels = batch
        if len(images):
            logits = logits_of(self._model, images, self._fabric)
            self._sums += self._module.measure(logits, labels).to(self._sums.dtype)

    def result(self) -> dict[str, float]:
        """Return `val_loss`, `val_top1` and `val_top5`."""
        total = self._fabric.all_reduce(self._sums.clone(), reduce_op="sum")
        assert isinstance(total, Tensor)
        loss, top1, top5, images = total.tolist()
        if not images:
            raise RuntimeError("--data: no validation image can be read")
        return {
            "val_loss": loss / images,
            "val_top1": top1 / images,
            "val_top5": top5 / images,
        }
