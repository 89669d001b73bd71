"""Training of classifiers, as a task of the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.fabric import Fabric
from torch import nn

from ..registry import create_model, load_model
from ..transnext import TransNeXt
from .class_weights import class_weights
from .data import ImageData
from .export import named_classes
from .freezing import freeze_parameters
from .label_mistakes import find_label_mistakes
from .loaders import TrainingData
from .mistakes import find_mistakes
from .module import ClassifierModule
from .options import RunOptions, check_options
from .report import render_report
from .settings import Settings
from .task import Finished, Task

__all__ = ["CLASSIFICATION", "build_data", "build_model"]


class _Classification(Task[RunOptions, Settings]):
    """Classifiers by the recipes of `recipes`."""

    def check_options(self, options: RunOptions) -> None:
        """See `options.check_options`."""
        check_options(options)

    def settings(
        self, options: RunOptions, processes: int, configuration: Mapping[str, Any] | None = None
    ) -> Settings:
        """See `Settings.of`."""
        return Settings.of(options, processes, configuration)

    def data(self, options: RunOptions, settings: Settings) -> TrainingData:
        """See `build_data`."""
        return build_data(options, settings)

    def model(
        self, options: RunOptions, settings: Settings, data: TrainingData, pretrain_size: int | None
    ) -> TransNeXt:
        """See `build_model`."""
        assert data.num_classes is not None
        class_weights(settings.recipe.class_weights, data, data.num_classes)  # refused early
        return build_model(options, settings, data.num_classes, pretrain_size)

    def module(
        self,
        options: RunOptions,
        settings: Settings,
        data: TrainingData,
        model: nn.Module,
        fabric: Fabric,
    ) -> ClassifierModule:
        """Return what trains the classifier."""
        assert data.num_classes is not None
        weights = class_weights(settings.recipe.class_weights, data, data.num_classes)
        return ClassifierModule(
            model,
            settings.recipe,
            settings.epochs,
            settings.learning_rate_factor,
            None if weights is None else weights.to(fabric.device),
            data.has_several_labels,
            options.shard_optimizer and fabric.world_size > 1,
        )

    def described(self, settings: Settings, data: TrainingData, model: Any) -> dict[str, Any]:
        """Return the sizes of weights and images, and the rate of stochastic depth."""
        return {
            "pretrain_size": model.pretrain_size,
            "crop_mode": settings.preprocess.crop_mode,
            "crop_pct": settings.preprocess.crop_pct,
            "drop_path": settings.drop_path,
        }

    def metadata(self, settings: Settings, data: TrainingData, model: Any) -> dict[str, str]:
        """Return what exported weights are told to be."""
        return {
            "model": settings.model_name,
            "recipe": settings.recipe.name,
            "num_classes": str(model.num_classes),
            "img_size": str(model.img_size),
            "pretrain_size": str(model.pretrain_size),
            "crop_mode": settings.preprocess.crop_mode,
            "crop_pct": str(settings.preprocess.crop_pct),
            **named_classes(data.class_names, model.num_classes),
        }

    def report(
        self,
        options: RunOptions,
        settings: Settings,
        data: TrainingData,
        model: Any,
        fabric: Fabric,
        run: Finished,
    ) -> str:
        """Return curves, classes and worst images of the best weights."""
        best = load_model(
            settings.model_name,
            run.weights,
            img_size=model.img_size,
            backend=options.backend,
        ).model
        data.shard(0, 1, None, options.limit_val_batches)
        best.to(fabric.device).eval()
        find = find_label_mistakes if data.has_several_labels else find_mistakes
        mistakes = find(best, data, fabric, model.num_classes)
        return render_report(run.configuration, run.rows, run.best, mistakes, settings.preprocess)


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
    return model


CLASSIFICATION = _Classification()
