"""The parts of a run, built from its options: settings, data, model, Fabric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric import Fabric

from ..classification.preprocess import Preprocess
from ..registry import create_model
from ..transnext import TransNeXt
from ..variants import find_checkpoint
from .data import ImageData
from .launch import LaunchPlan
from .loaders import TrainingData
from .options import RunOptions
from .recipes import Recipe, get_recipe

__all__ = ["Settings", "build_data", "build_fabric", "build_model", "describe"]


@dataclass(frozen=True)
class Settings:
    """Options over recipe over variant: what a run trains, and how."""

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
        recipe = get_recipe(options.recipe)
        model_name = options.model or recipe.model
        variant, published = find_checkpoint(model_name)
        img_size = options.img_size or recipe.img_size
        batch_size = options.batch_size or recipe.batch_size
        total_batch = batch_size * options.accumulate * processes
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
            peak_lr=options.lr or recipe.lr * total_batch / recipe.total_batch,
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


def build_data(options: RunOptions, settings: Settings) -> TrainingData:
    """Return the data that `options` name.

    Raises
    ------
    ValueError
        The data, the recipe and the model do not fit each other.
    """
    recipe, num_classes = settings.recipe, settings.num_classes
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
        data.enable_mixup(num_classes)
    if data.num_classes is not None and data.num_classes != num_classes:
        raise ValueError(
            f"--num-classes: got {num_classes}, needs {data.num_classes}, the number of classes "
            f"in --data {source}"
        )
    return data


def build_model(options: RunOptions, settings: Settings, with_weights: bool) -> TransNeXt:
    """Return the model, with the weights that `options` name if `with_weights`."""
    model = create_model(
        settings.model_name,
        weights=options.weights if with_weights else None,
        num_classes=settings.num_classes,
        img_size=settings.img_size,
        pretrain_size=settings.pretrain_size,
        drop_path_rate=settings.drop_path,
        backend=options.backend,
    )
    if options.compile:
        model.compile()
    return model


def build_fabric(
    options: RunOptions, settings: Settings, plan: LaunchPlan, callbacks: Sequence[Any]
) -> Fabric:
    """Return Lightning's Fabric, not yet launched.

    Raises
    ------
    ValueError
        The machine has no such devices, or precision.
    """
    on_accelerator = torch.accelerator.is_available()
    # Fabric checks it itself, at run time.
    precision: Any = options.precision or (
        settings.recipe.precision if on_accelerator else "32-true"
    )
    try:
        return Fabric(
            devices=plan.devices,
            num_nodes=options.num_nodes,
            precision=precision,
            callbacks=list(callbacks),
        )
    except (ValueError, RuntimeError, TypeError) as error:  # MisconfigurationException among them
        raise ValueError(
            f"--devices {options.devices}, --num-nodes {options.num_nodes}, --precision "
            f"{precision}: {error}"
        ) from error


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
        "num_classes": settings.num_classes,
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
        "torch": str(torch.__version__),
    }
