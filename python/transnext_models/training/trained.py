"""What trains a model, whatever it is for: rates, clipping, modes; tasks add loss and measures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from .freezing import resting_modules

__all__ = ["Measures", "RecipeOfRun", "TrainingModule"]


class RecipeOfRun(Protocol):
    """What the trainer reads of a recipe; see `Recipe`."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def clip_norm(self) -> float | None: ...  # noqa: D102

    @property
    def precision(self) -> str: ...  # noqa: D102

    @property
    def ema_decay(self) -> float | None: ...  # noqa: D102

    @property
    def early_stop(self) -> int | None: ...  # noqa: D102

    @property
    def fresh_scaler(self) -> bool: ...  # noqa: D102


class Measures(ABC):
    """Collects what a validation finds, batch by batch, and measures it."""

    @abstractmethod
    def add(self, batch: Any) -> None:
        """Take a batch on the device."""

    @abstractmethod
    def result(self) -> dict[str, float]:
        """Return the measures of all processes' batches, ``val_…``; all of them call it together.

        Raises
        ------
        RuntimeError
            There was no image.
        """


class TrainingModule(ABC):
    """A model with its loss, its optimiser and its rates.

    Parameters
    ----------
    model : nn.Module
        What is trained, validated and exported.
    recipe : RecipeOfRun
        Hyper-parameters.
    optimizer : torch.optim.Optimizer
        Of the parameters that are trained.
    trained : nn.Module | None
        What is called in training, with the parameters of `model`; None for `model` itself.

    Attributes
    ----------
    network
        What is called in training: `trained`, or what wraps it for several processes and mixed
        precision.
    score : str
        The measure that tells the best validation; the larger the better.
    changes_rate_in_epochs : bool
        Whether steps of one epoch have different rates.
    """

    score: ClassVar[str]
    changes_rate_in_epochs = False

    def __init__(
        self,
        model: nn.Module,
        recipe: RecipeOfRun,
        optimizer: torch.optim.Optimizer,
        trained: nn.Module | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.trained = model if trained is None else trained
        self.network: Callable[..., Any] = self.trained
        self._clip_norm = recipe.clip_norm
        self.fresh_scaler = recipe.fresh_scaler
        self._resting = resting_modules(model)

    @abstractmethod
    def training_step(self, batch: Any) -> Tensor:
        """Return the loss of a batch on the device."""

    @abstractmethod
    def set_rate(self, epoch: int, step: int = 0) -> float:
        """Set the learning rate of a step of an epoch, and return it.

        It depends on nothing but the two.
        """

    @abstractmethod
    def measures(self, model: nn.Module, fabric: Fabric) -> Measures:
        """Return what measures a validation of `model`, which is in evaluation mode."""

    def train(self) -> None:
        """Set the model to training mode, but for the parts of it that are frozen."""
        self.model.train()
        for module in self._resting:
            module.eval()

    def clip_gradients(self, scaler: torch.amp.GradScaler | None) -> None:
        """Clip the gradients to the recipe's norm, after taking the scale of `scaler` off them."""
        if self._clip_norm is None:
            return
        if scaler is not None:
            # Fabric does the same, but refuses fused optimisers, which torch's scaler can handle.
            scaler.unscale_(self.optimizer)
        # With float16 the first scales are found by gradients that overflow: they are no error.
        groups = self.optimizer.param_groups
        parameters = [parameter for group in groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self._clip_norm)
