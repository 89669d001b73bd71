"""One training run: options in, a folder with configuration, metrics, checkpoints and exported
weights out."""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from safetensors.torch import save

from transnext_ops.backends.registry import check_backend_name

from ..checkpoints.convert import convert, written_atomically
from ..preprocess import MIN_SIZE, Preprocess
from ..registry import create_model
from ..transnext import TransNeXt
from ..variants import find_checkpoint
from .callbacks import EpochLog, SeedEpochs
from .data import ImageData, TrainingData
from .module import ClassifierModule
from .recipes import Recipe, get_recipe

__all__ = ["RunOptions", "RunResult", "train"]

_LAST = "last.ckpt"


@dataclass(frozen=True)
class RunOptions:
    """What the command line says; None stands for the recipe's value.

    Attributes
    ----------
    recipe : name of the recipe.
    data : folder, name of a data set, or "digits"; None only for a recipe with its own data.
    data_root : where a named data set is kept.
    model : name of the model.
    epochs, batch_size : length, and images per device and step.
    lr : peak learning rate for this run's total batch; None scales the recipe's by `total batch /
        its batch`.
    img_size, pretrain_size, num_classes : of the model.
    weights : file or name of weights to start from.
    output : folder of the run.
    resume : checkpoint, or folder of a run, to continue.
    precision, devices, num_nodes, accumulate : as Lightning's Trainer takes them.
    workers : loading processes per device.
    seed : of all random numbers.
    backend : operator backend of the model.
    compile : whether to compile the model with torch.compile.
    limit_train_batches, limit_val_batches : shorten an epoch, for a quick look.
    half : also export float16 weights.
    """

    recipe: str
    output: Path
    data: str | None = None
    data_root: Path | None = None
    model: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    img_size: int | None = None
    pretrain_size: int | None = None
    num_classes: int | None = None
    weights: str | None = None
    resume: Path | None = None
    precision: str | None = None
    devices: str = "auto"
    num_nodes: int = 1
    accumulate: int = 1
    workers: int = 4
    seed: int = 0
    backend: str | None = None
    compile: bool = False
    limit_train_batches: int | None = None
    limit_val_batches: int | None = None
    half: bool = True


@dataclass(frozen=True)
class RunResult:
    """Files a run leaves, its last validation, and whether this process wrote them."""

    weights: Path
    half_weights: Path | None
    last_checkpoint: Path
    metrics: dict[str, float]
    is_first_process: bool


def train(options: RunOptions, callbacks: Sequence[pl.Callback] = ()) -> RunResult:
    """Train, validate, checkpoint and export.

    Parameters
    ----------
    options : see `RunOptions`.
    callbacks : added to the run's own.

    Returns
    -------
    RunResult; on processes other than the first, the files are written by the first.

    Raises
    ------
    ValueError : an option, the data or the weights do not fit; the message names which.
    RuntimeError : a package is missing, or the loss is no longer finite.
    KeyboardInterrupt : the user stopped the run; `resume` continues it from its last whole epoch.
    """
    _check_options(options)
    recipe = get_recipe(options.recipe)
    model_name = options.model or recipe.model
    variant, published = find_checkpoint(model_name)
    checkpoint = _resumed_checkpoint(options)
    _check_output(options)
    img_size = options.img_size or recipe.img_size
    batch_size = options.batch_size or recipe.batch_size
    epochs = options.epochs or recipe.epochs
    num_classes = options.num_classes or recipe.num_classes
    drop_path = recipe.drop_path.get(variant.name, variant.drop_path_rate)

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    pl.seed_everything(options.seed, workers=True, verbose=False)
    preprocess = Preprocess(
        img_size,
        published.mean,
        published.std,
        recipe.crop_mode,
        recipe.crop_pct,
        published.interpolation,
    )
    data = _build_data(options, recipe, preprocess, batch_size, num_classes)
    model = create_model(
        model_name,
        weights=options.weights,
        num_classes=num_classes,
        img_size=img_size,
        pretrain_size=options.pretrain_size or recipe.pretrain_size or variant.pretrain_size,
        drop_path_rate=drop_path,
        backend=options.backend,
    )
    if options.compile:
        model.compile()

    trainer = _build_trainer(options, recipe, epochs, callbacks)
    total_batch = batch_size * options.accumulate * trainer.world_size
    scaled = recipe.lr * total_batch / recipe.total_batch
    factor = (options.lr or scaled) / recipe.lr
    module = ClassifierModule(model, recipe, num_classes, epochs, factor)
    if trainer.is_global_zero:
        resolved = {
            "recipe": recipe.name,
            "model": model_name,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "img_size": img_size,
            "pretrain_size": model.pretrain_size,
            "num_classes": num_classes,
            "drop_path": drop_path,
            "epochs": epochs,
            "total_batch": total_batch,
            "peak_lr": recipe.lr * factor,
            "precision": str(trainer.precision),
            "torch": torch.__version__,
        }
        _write_configuration(options, recipe, resolved)

    _fit(trainer, module, data, checkpoint)
    return _finish(trainer, module, model_name, options)


def _check_options(options: RunOptions) -> None:
    """Refuse what cannot be meant, by the option's name, before anything is loaded."""
    for name in (
        "epochs",
        "batch_size",
        "lr",
        "img_size",
        "pretrain_size",
        "num_classes",
        "num_nodes",
        "accumulate",
        "limit_train_batches",
        "limit_val_batches",
    ):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {value}")
    if options.workers < 0:
        raise ValueError(f"--workers must be 0 or more, got {options.workers}")
    for name in ("img_size", "pretrain_size"):
        value = getattr(options, name)
        if value is not None and value < MIN_SIZE:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {MIN_SIZE}, got {value}")
    if options.backend is not None:
        check_backend_name(options.backend, "--backend")
    _devices(options.devices)


def _devices(devices: str) -> str | int | list[int]:
    """What --devices means to Lightning."""
    if devices == "auto":
        return devices
    try:
        return int(devices) if devices.isdigit() else [int(part) for part in devices.split(",")]
    except ValueError:
        raise ValueError(
            f"--devices must be auto, a number of devices, or indices such as 0,1, got {devices!r}"
        ) from None


def _resumed_checkpoint(options: RunOptions) -> Path | None:
    """The checkpoint file that --resume means."""
    if options.resume is None:
        return None
    path = options.resume / "checkpoints" / _LAST if options.resume.is_dir() else options.resume
    if not path.is_file():
        raise ValueError(f"--resume {options.resume}: there is no checkpoint {path}")
    return path


def _check_output(options: RunOptions) -> None:
    """Refuse to write a new run over an old one. Only the first process looks: it writes first."""
    if getattr(rank_zero_only, "rank", 0) != 0:
        return
    if options.resume is None and (options.output / "config.json").exists():
        raise ValueError(
            f"--output {options.output} already holds a run: continue it with "
            f"--resume {options.output}, or name another folder"
        )


def _write_configuration(options: RunOptions, recipe: Recipe, resolved: dict[str, Any]) -> None:
    """Write config.json; of a resumed run, check that it goes on as it began."""
    path = options.output / "config.json"
    if options.resume is not None and path.exists():
        before = json.loads(path.read_text())["resolved"]
        changed = [
            f"{name} was {before[name]!r} and is {value!r}"
            for name, value in resolved.items()
            if name in before and name != "torch" and before[name] != value
        ]
        if changed:
            raise ValueError(f"--resume {options.resume}: {', '.join(changed)}")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    configuration = {
        "resolved": resolved,
        "options": dataclasses.asdict(options),
        "recipe": dataclasses.asdict(recipe),
    }
    path.write_text(json.dumps(configuration, indent=2, default=str) + "\n")


def _build_data(
    options: RunOptions, recipe: Recipe, preprocess: Preprocess, batch_size: int, num_classes: int
) -> TrainingData:
    source = options.data or ("digits" if recipe.data == "digits" else None)
    if source is None:
        raise ValueError(
            f"--data is needed by recipe {recipe.name!r}: a folder with train/ and val/"
        )
    data: TrainingData
    if source == "digits":
        if recipe.data != "digits":
            raise ValueError(f"--data digits needs --recipe digits, not {recipe.name!r}")
        from .digit_data import DigitData

        data = DigitData(preprocess, batch_size, options.seed)
    else:
        data = ImageData(
            source,
            recipe,
            preprocess,
            batch_size,
            options.workers,
            options.seed,
            options.data_root,
        )
        data.enable_mixup(num_classes)
    if data.num_classes is not None and data.num_classes != num_classes:
        raise ValueError(
            f"--data {source} has {data.num_classes} classes but the model has {num_classes}: "
            f"give --num-classes {data.num_classes}"
        )
    data.check_length()
    return data


def _build_trainer(
    options: RunOptions, recipe: Recipe, epochs: int, callbacks: Sequence[pl.Callback]
) -> pl.Trainer:
    checkpoints = options.output / "checkpoints"
    own: list[pl.Callback] = [SeedEpochs(options.seed)]
    if recipe.ema_decay is not None:
        own.append(EMAWeightAveraging(decay=recipe.ema_decay))
    own += [
        EpochLog(options.output / "metrics.csv"),
        ModelCheckpoint(
            checkpoints, "best", monitor="val_top1", mode="max", enable_version_counter=False
        ),
        ModelCheckpoint(
            checkpoints,
            Path(_LAST).stem,
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        ),
    ]
    on_accelerator = torch.accelerator.is_available()
    # Lightning checks it itself, at run time.
    precision: Any = options.precision or (recipe.precision if on_accelerator else "32-true")
    limits: dict[str, Any] = {
        "limit_train_batches": options.limit_train_batches,
        "limit_val_batches": options.limit_val_batches,
    }
    return pl.Trainer(
        default_root_dir=options.output,
        max_epochs=epochs,
        precision=precision,
        devices=_devices(options.devices),
        num_nodes=options.num_nodes,
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=recipe.clip_norm,
        check_val_every_n_epoch=min(recipe.validate_every, epochs),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        callbacks=[*own, *callbacks],
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        **{name: value for name, value in limits.items() if value is not None},
    )


def _fit(
    trainer: pl.Trainer, module: ClassifierModule, data: TrainingData, checkpoint: Path | None
) -> None:
    """Run Lightning's loop; KeyboardInterrupt where the user stops it."""
    on_interrupt = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings():
        # Neither concerns the user: Lightning's use of torch's internals, and a resumed folder.
        warnings.filterwarnings("ignore", message=r".*treespec")
        warnings.filterwarnings("ignore", message=r"Checkpoint directory .* is not empty")
        try:
            # The checkpoints hold plain data only, so nothing in the file is executed.
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        except SystemExit:
            if not trainer.interrupted:
                raise
    if trainer.interrupted:
        # Lightning closed the run, ignored further signals, and would have ended the process.
        signal.signal(signal.SIGINT, on_interrupt)
        raise KeyboardInterrupt


def _finish(
    trainer: pl.Trainer, module: ClassifierModule, model_name: str, options: RunOptions
) -> RunResult:
    """Export the weights (the averaged ones where the recipe averages) and write the result."""
    output = options.output
    model = module.model
    assert isinstance(model, TransNeXt)
    metrics = {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith(("train_", "val_"))
    }
    result = RunResult(
        weights=output / "model.safetensors",
        half_weights=output / "model_float16.safetensors" if options.half else None,
        last_checkpoint=output / "checkpoints" / _LAST,
        metrics=metrics,
        is_first_process=trainer.is_global_zero,
    )
    if trainer.is_global_zero:
        metadata = {
            "model": model_name,
            "recipe": module.recipe.name,
            "num_classes": str(model.num_classes),
            "img_size": str(model.img_size),
            "pretrain_size": str(model.pretrain_size),
        }
        with written_atomically(result.weights) as path:
            path.write_bytes(save(module.model_state(), {"format": "pt", **metadata}))
        if result.half_weights is not None:
            convert(result.weights, result.half_weights, dtype=torch.float16, overwrite=True)
        (output / "result.json").write_text(json.dumps(metrics, indent=2) + "\n")
    trainer.strategy.barrier("export")
    return result
