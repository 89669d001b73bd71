"""The parts of every run: Fabric, and what it is described by."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from torch import nn

from ..capture.recorders import has_graphs
from .launch import LaunchPlan
from .libraries import library_versions
from .loaders import TrainingData
from .options import CommonOptions
from .strategy import PatientDDP
from .task import RunSettings

__all__ = ["build_fabric", "describe", "quiet"]


def build_fabric(
    options: CommonOptions, of_recipe: str, loss_scale: float | None, plan: LaunchPlan
) -> Fabric:
    """Return Lightning's Fabric, not yet launched.

    Parameters
    ----------
    of_recipe : str
        Precision on accelerators where the options name none.
    loss_scale : float | None
        Of float16; None lets a scaler find it.

    Raises
    ------
    ValueError
        The machine has no such devices, or precision, or no CUDA graphs where they are asked for.
    """
    on_accelerator = torch.accelerator.is_available()
    # Fabric checks it itself, at run time.
    precision: Any = options.precision or (of_recipe if on_accelerator else "32-true")
    several = PatientDDP(options.connect_timeout) if plan.processes > 1 else None
    kind: dict[str, Any] = {"precision": precision}
    if loss_scale is not None and precision == "16-mixed":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        kind = {"plugins": [MixedPrecision(precision, device, ConstantScaler(loss_scale))]}
    try:
        fabric = Fabric(
            strategy=several or "auto",
            devices=plan.devices,
            num_nodes=options.num_nodes,
            **kind,
        )
    except (ValueError, RuntimeError, TypeError) as error:  # MisconfigurationException among them
        raise ValueError(
            f"--devices {options.devices}, --num-nodes {options.num_nodes}, --precision "
            f"{precision}: {error}"
        ) from error
    if options.captures and not has_graphs(fabric.device):
        raise ValueError(f"--cuda-graphs: got a run on {fabric.device.type}, needs a CUDA device")
    return fabric


class ConstantScaler(torch.amp.GradScaler):
    """A gradient scaler that keeps its scale; a step whose gradients overflow is left out."""

    def __init__(self, scale: float) -> None:
        super().__init__("cuda" if torch.cuda.is_available() else "cpu", init_scale=scale)
        self._constant = scale

    def update(self, new_scale: float | torch.Tensor | None = None) -> None:
        """Keep the scale."""
        super().update(self._constant)


def describe(
    options: CommonOptions,
    settings: RunSettings,
    model: nn.Module,
    data: TrainingData,
    fabric: Fabric,
    of_task: dict[str, Any],
) -> dict[str, Any]:
    """Return what decides the result of a run: two runs that agree in it are the same run."""
    return {
        "recipe": settings.recipe.name,
        "model": settings.model_name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "img_size": settings.img_size,
        **of_task,
        "num_classes": data.num_classes,
        "epochs": settings.epochs,
        "total_batch": settings.total_batch,
        "peak_lr": settings.peak_lr,
        "seed": options.seed,
        "train_images": len(data.train_set),  # type: ignore[arg-type]
        "val_images": len(data.val_set),  # type: ignore[arg-type]
        "limit_train_batches": options.limit_train_batches,
        "limit_val_batches": options.limit_val_batches,
        "precision": str(fabric.strategy.precision.precision),
        **library_versions(),
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's remarks on the machine from the user."""
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Lightning's use of torch's internals.
        warnings.filterwarnings("ignore", message=r".*treespec")
        yield
