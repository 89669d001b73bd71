"""A run put together: what is built before its processes are connected, and what behind."""

from __future__ import annotations

from dataclasses import dataclass

from lightning.fabric import Fabric
from torch import Tensor

from ..transnext import TransNeXt
from .class_weights import class_weights
from .launch import LaunchPlan
from .loaders import TrainingData
from .module import ClassifierModule
from .options import RunOptions
from .parts import build_data, build_fabric, build_model
from .settings import Settings
from .state import TrainingState
from .steps import EagerSteps, build_steps

__all__ = ["Assembly", "Connected", "assemble"]


@dataclass(frozen=True)
class Connected:
    """What trains, on its device."""

    module: ClassifierModule
    state: TrainingState
    steps: EagerSteps


@dataclass(frozen=True)
class Assembly:
    """All that is built and checked before anything is written.

    Attributes
    ----------
    class_weights : Tensor | None
        Of the loss, float32 [classes], on the host.
    fabric : Fabric
        Not yet launched.
    """

    data: TrainingData
    model: TransNeXt
    class_weights: Tensor | None
    fabric: Fabric

    def connect(self, options: RunOptions, settings: Settings, accumulate: int) -> Connected:
        """Connect the processes and move the model to its device.

        Parameters
        ----------
        accumulate : int
            Batches per optimiser step.
        """
        fabric, data, weights = self.fabric, self.data, self.class_weights
        fabric.launch()
        fabric.to_device(self.model)
        module = ClassifierModule(
            self.model,
            settings.recipe,
            settings.epochs,
            settings.learning_rate_factor,
            None if weights is None else weights.to(fabric.device),
            data.has_several_labels,
            options.shard_optimizer and fabric.world_size > 1,
        )
        wrapped = fabric.setup(self.model, module.optimizer)
        module.network = wrapped[0]
        state = TrainingState(fabric, self.model, module.optimizer, settings.recipe.ema_decay)
        limits = options.limit_train_batches, options.limit_val_batches
        data.shard(fabric.global_rank, fabric.world_size, *limits)
        steps = build_steps(options.cuda_graphs, fabric, module, wrapped, data, accumulate)
        return Connected(module, state, steps)


def assemble(
    options: RunOptions, settings: Settings, plan: LaunchPlan, pretrain_size: int | None
) -> Assembly:
    """Build data, model and Fabric.

    Parameters
    ----------
    pretrain_size : int | None
        See `build_model`.

    Raises
    ------
    ValueError, RuntimeError
        An option, the data or the weights do not fit, or a package is missing; names which.
    """
    data = build_data(options, settings)
    data.check_length(plan.processes, options.accumulate)
    classes = data.num_classes
    assert classes is not None
    model = build_model(options, settings, classes, pretrain_size)
    weights = class_weights(settings.recipe.class_weights, data, classes)
    return Assembly(data, model, weights, build_fabric(options, settings, plan))
