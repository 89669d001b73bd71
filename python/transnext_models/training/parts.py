"""The parts of a run, built from its options and settings: data, model, Fabric."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from lightning.fabric import Fabric

from ..capture.recorders import has_graphs
from ..registry import create_model, load_model
from ..transnext import TransNeXt
from .data import ImageData
from .freezing import freeze_parameters
from .launch import LaunchPlan
from .libraries import library_versions
from .loaders import TrainingData
from .options import RunOptions
from .settings import Settings
from .strategy import PatientDDP

__all__ = ["build_data", "build_fabric", "build_model", "describe", "quiet"]


def build_data(options: RunOptions, settings: Settings) -> TrainingData:
    """Return the data that `options` name; it then knows how many classes there are.

    Raises
    ------
    ValueError
        The data, the recipe and the model do not fit each other.
    """
    recipe = settings.recipe
    source = options.data or ("digits" if recipe.data == "digits" else None)
    if source is None:
        raise ValueError(
            f"--data: got nothing, needs a folder with train/ and val/ for recipe {recipe.name!r}"
        )
    data: TrainingData
    if source == "digits":
        if recipe.data != "digits":
            raise ValueError(f"--recipe: got {recipe.name!r}, needs digits for --data digits")
        from .digit_data import DigitData

        data = DigitData(settings.preprocess, settings.batch_size, options.seed)
    else:
        data = ImageData(
            source,
            recipe,
            settings.preprocess,
            settings.batch_size,
            options.workers,
            options.seed,
            options.data_root,
            options.data_val,
            (options.epoch_length, options.val_length),
        )
        if (known := settings.num_classes or data.num_classes) is not None:
            data.enable_mixup(known)
    num_classes = settings.num_classes or data.num_classes
    if num_classes is None:
        raise ValueError(
            f"--num-classes: got nothing, needs the number of classes in --data {source}, which "
            "does not say it"
        )
    if data.num_classes is not None and data.num_classes != num_classes:
        raise ValueError(
            f"--num-classes: got {num_classes}, needs {data.num_classes}, the number of classes "
            f"in --data {source}"
        )
    data.num_classes = num_classes
    return data


def build_model(
    options: RunOptions, settings: Settings, num_classes: int, pretrain_size: int | None
) -> TransNeXt:
    """Return the model, with its first weights, and with what it freezes frozen.

    Parameters
    ----------
    num_classes : int
        Of the data.
    pretrain_size : int | None
        Of a model whose weights come later, from a checkpoint or another process; None for one
        that begins with the weights of the options, where these name any: the size is theirs.

    Raises
    ------
    ValueError
        The weights cannot be used, or had another size than the options say.
    """
    arguments: dict[str, Any] = {
        "num_classes": num_classes,
        "img_size": settings.img_size,
        "drop_path_rate": settings.drop_path,
        "backend": options.backend,
    }
    if pretrain_size is None and settings.weights is not None:
        model = load_model(settings.model_name, settings.weights, **arguments).model
        asked = options.pretrain_size
        if asked is not None and asked != model.pretrain_size:
            raise ValueError(
                f"--pretrain-size: got {asked}, needs {model.pretrain_size}, at which --weights "
                f"{settings.weights} were trained: leave the option out"
            )
    else:
        size = pretrain_size or settings.pretrain_size
        model = create_model(settings.model_name, pretrain_size=size, **arguments)
    freeze_parameters(model, settings.recipe)
    if options.compile:
        model.compile()
    return model


def build_fabric(options: RunOptions, settings: Settings, plan: LaunchPlan) -> Fabric:
    """Return Lightning's Fabric, not yet launched.

    Raises
    ------
    ValueError
        The machine has no such devices, or precision, or no CUDA graphs where they are asked for.
    """
    on_accelerator = torch.accelerator.is_available()
    # Fabric checks it itself, at run time.
    precision: Any = options.precision or (
        settings.recipe.precision if on_accelerator else "32-true"
    )
    several = PatientDDP(options.connect_timeout) if plan.processes > 1 else None
    try:
        fabric = Fabric(
            strategy=several or "auto",
            devices=plan.devices,
            num_nodes=options.num_nodes,
            precision=precision,
        )
    except (ValueError, RuntimeError, TypeError) as error:  # MisconfigurationException among them
        raise ValueError(
            f"--devices {options.devices}, --num-nodes {options.num_nodes}, --precision "
            f"{precision}: {error}"
        ) from error
    if options.cuda_graphs and not has_graphs(fabric.device):
        raise ValueError(f"--cuda-graphs: got a run on {fabric.device.type}, needs a CUDA device")
    return fabric


def describe(
    options: RunOptions,
    settings: Settings,
    model: TransNeXt,
    data: TrainingData,
    fabric: Fabric,
) -> dict[str, Any]:
    """Return what decides the result of a run: two runs that agree in it are the same run."""
    return {
        "recipe": settings.recipe.name,
        "model": settings.model_name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "img_size": settings.img_size,
        "pretrain_size": model.pretrain_size,
        "crop_mode": settings.preprocess.crop_mode,
        "crop_pct": settings.preprocess.crop_pct,
        "num_classes": data.num_classes,
        "drop_path": settings.drop_path,
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
