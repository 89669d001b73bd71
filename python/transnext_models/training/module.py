"""The training step, the validation step and the optimiser of a classifier, for Lightning's
loop."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from .optimisation import build_optimizer, build_schedule
from .recipes import Recipe

__all__ = ["ClassifierModule"]


class ClassifierModule(pl.LightningModule):
    """Trains `model` by `recipe`.

    Parameters
    ----------
    model : images float [B, 3, H, W] to logits [B, classes].
    recipe : hyper-parameters.
    num_classes : number of logits.
    epochs : length of the schedule.
    learning_rate_factor : see `Recipe`.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        num_classes: int,
        epochs: int,
        learning_rate_factor: float = 1.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.epochs = epochs
        self.learning_rate_factor = learning_rate_factor
        self.top1 = MulticlassAccuracy(num_classes, top_k=1, average="micro")
        self.top5 = MulticlassAccuracy(num_classes, top_k=min(5, num_classes), average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, classes] of images [B, 3, H, W]."""
        return self.model(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Return the loss of images [B, 3, H, W] with int64 labels [B] or soft targets [B,
        classes]."""
        images, targets = batch
        # Soft targets of mixup are smoothed already.
        smoothing = 0.0 if targets.is_floating_point() else self.recipe.label_smoothing
        loss = F.cross_entropy(self(images).float(), targets, label_smoothing=smoothing)
        count = len(images)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=count, sync_dist=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Stop a run that has diverged: every later step would be wasted.

        Raises
        ------
        RuntimeError : the epoch's mean loss is not finite.
        """
        loss = float(self.trainer.callback_metrics["train_loss"])
        if not math.isfinite(loss):
            raise RuntimeError(
                f"the loss of epoch {self.current_epoch} is {loss}: lower --lr, "
                "or resume from an earlier checkpoint"
            )

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Count correct answers on images [B, 3, H, W] with int64 labels [B]."""
        images, labels = batch
        logits = self(images).float()
        self.top1(logits, labels)
        self.top5(logits, labels)
        count = len(images)
        self.log("val_loss", F.cross_entropy(logits, labels), batch_size=count, sync_dist=True)
        self.log("val_top1", self.top1, batch_size=count)
        self.log("val_top5", self.top5, batch_size=count)

    def configure_optimizers(self) -> Any:
        """Return the recipe's optimiser and its schedule over epochs."""
        optimizer = build_optimizer(self.model, self.recipe, self.learning_rate_factor)
        schedule = build_schedule(optimizer, self.recipe, self.epochs, self.learning_rate_factor)
        configuration: dict[str, Any] = {"optimizer": optimizer}
        if schedule is not None:
            configuration["lr_scheduler"] = {"scheduler": schedule, "interval": "epoch"}
        return configuration

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Set the rate of the next epoch: Lightning calls this when an epoch's last step is
        done."""
        scheduler.step(self.current_epoch + 1)

    def model_state(self) -> dict[str, Tensor]:
        """Return the model's own state dict on the CPU, names as published."""
        return {name: value.detach().cpu() for name, value in self.model.state_dict().items()}
