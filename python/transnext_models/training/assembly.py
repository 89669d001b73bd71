"""A run put together: what is built before its processes are connected, and what behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning.fabric import Fabric

from .launch import LaunchPlan
from .loaders import TrainingData
from .options import CommonOptions
from .parts import build_fabric
from .state import TrainingState
from .steps import EagerSteps, build_steps
from .task import RunSettings, Task
from .trained import TrainingModule

__all__ = ["Assembly", "Connected", "assemble"]


@dataclass(frozen=True)
class Connected:
    """What trains, on its device."""

    module: TrainingModule
    state: TrainingState
    steps: EagerSteps


@dataclass(frozen=True)
class Assembly:
    """All that is built and checked before anything is written.

    Attributes
    ----------
    fabric : Fabric
        Not yet launched.
    """

    task: Task[Any, Any]
    data: TrainingData
    model: Any
    fabric: Fabric

    def connect(self, options: CommonOptions, settings: RunSettings, accumulate: int) -> Connected:
        """Connect the processes and move the model to its device.

        Parameters
        ----------
        accumulate : int
            Batches per optimiser step.
        """
        fabric, data = self.fabric, self.data
        fabric.launch()
        fabric.to_device(self.model)
        limits = options.limit_train_batches, options.limit_val_batches
        data.shard(fabric.global_rank, fabric.world_size, *limits)
        module = self.task.module(options, settings, data, self.model, fabric)
        wrapped = fabric.setup(module.trained, module.optimizer)
        module.network = wrapped[0]
        state = TrainingState(fabric, self.model, module.optimizer, settings.recipe.ema_decay)
        steps = build_steps(options.captures, fabric, module, wrapped, data, accumulate)
        return Connected(module, state, steps)


def assemble(
    task: Task[Any, Any],
    options: CommonOptions,
    settings: RunSettings,
    plan: LaunchPlan,
    pretrain_size: int | None,
) -> Assembly:
    """Build data, model and Fabric.

    Parameters
    ----------
    pretrain_size : int | None
        See `Task.model`.

    Raises
    ------
    ValueError, RuntimeError
        An option, the data or the weights do not fit, or a package is missing; names which.
    """
    data = task.data(options, settings)
    data.check_length(plan.processes, settings.accumulate)
    model = task.model(options, settings, data, pretrain_size)
    if options.compile:
        model.compile()
    fabric = build_fabric(options, settings.recipe.precision, task.loss_scale(settings), plan)
    return Assembly(task, data, model, fabric)
