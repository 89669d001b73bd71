"""The options of a run, and which are refused before anything is loaded or written."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from transnext_ops.backends.registry import check_backend_name

from ..variants import MIN_SIZE
from .launch import parse_devices

__all__ = [
    "CommonOptions",
    "RunOptions",
    "check_common_options",
    "check_options",
    "check_positive",
    "check_side",
    "portable_options",
]

_LARGEST_SEED = 2**32 - 1  # NumPy's
_DECODERS = ("exact", "scaled")


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """The options of any run, whatever it trains.

    None stands for the recipe's value, where it has one.

    Attributes
    ----------
    files, sources : tuple[str, ...]
        Options that name files or folders, and places of data that `sources.find` knows.
    """

    files: ClassVar[tuple[str, ...]] = ("weights",)
    sources: ClassVar[tuple[str, ...]] = ()

    recipe: Annotated[str, "Hyper-parameters."]
    weights: Annotated[str | None, "Weights to start from: a file, or a published name."] = None
    pretrain_size: Annotated[
        int | None, "Image side that scales the position bias; it belongs to the weights."
    ] = None
    output: Annotated[Path, "Folder for all that the run writes; that of --resume without it."]
    epochs: Annotated[int | None, "Length, if not the recipe's."] = None
    batch_size: Annotated[int | None, "Images per device and step, if not the recipe's."] = None
    lr: Annotated[float | None, "Peak learning rate, if not the recipe's."] = None
    scale_lr: Annotated[
        bool,
        "Multiply the recipe's learning rates by total batch / recipe's total batch (1024 for "
        "ImageNet, 64 for digits). The published code does not.",
    ] = False
    resume: Annotated[
        Path | None,
        "Continue a run: its folder, or one of its checkpoints. It keeps the options that are not "
        "given again.",
    ] = None
    config: Annotated[
        Path | None,
        "Repeat the run with this config.json: its options, but for those that are given now, and "
        "its recipe.",
    ] = None
    ema_decay: Annotated[
        float | None, "Decay per step of the averaged weights that are used; 0 for none."
    ] = None
    early_stop: Annotated[int | None, "End after so many validations without a better one."] = None
    auto_resume: Annotated[
        bool,
        "Go on with the run in --output where there is one: the same command starts and continues "
        "it, as a requeued job or torchrun --max-restarts calls it.",
    ] = False
    precision: Annotated[
        str | None, "Lightning precision, such as 32-true, 16-mixed, bf16-mixed."
    ] = None
    devices: Annotated[str, "auto, a number of devices, or their indices: 0,1."] = "auto"
    num_nodes: Annotated[int, "Machines."] = 1
    shard_optimizer: Annotated[
        bool,
        "Keep on each process only its share of AdamW's moments (ZeRO-1): the same steps, in less "
        "memory.",
    ] = False
    connect_timeout: Annotated[
        float, "Seconds that the processes of a run wait for each other when they start."
    ] = 300.0
    workers: Annotated[int, "Loading processes per device."] = 4
    seed: Annotated[int, "Seed of all random numbers."] = 0
    backend: Annotated[str | None, "Operator backend; the best available without it."] = None
    compile: Annotated[bool, "Use torch.compile."] = False
    limit_train_batches: Annotated[int | None, "Cut every epoch to so many batches."] = None
    limit_val_batches: Annotated[int | None, "Cut every validation to so many batches."] = None
    checkpoint_every_steps: Annotated[
        int | None, "Write a checkpoint after so many optimiser steps too, not only epochs."
    ] = None
    checkpoint_every_minutes: Annotated[
        float | None, "Write a checkpoint after so many minutes too, not only epochs."
    ] = None
    async_checkpoints: Annotated[
        bool,
        "Train on while a checkpoint is written, from a copy of the state in host memory. The run "
        "ends behind the last one.",
    ] = True
    wandb: Annotated[
        str | None, "Send the measurements to this project of Weights & Biases too."
    ] = None
    dry_run: Annotated[
        bool,
        "Write nothing: read some images, take a step at full size, say what the run would take.",
    ] = False
    profile: Annotated[
        bool,
        "Profile some steps once the run has settled, and write what takes their time into the "
        "run's folder (profile/); the run goes on.",
    ] = False
    report: Annotated[bool, "Write report.html at the end: curves, confusion, worst images."] = True
    half: Annotated[bool, "Also export float16 weights."] = True

    @property
    def captures(self) -> bool:
        """Whether steps are recorded into CUDA graphs."""
        return False


@dataclass(frozen=True, kw_only=True)
class RunOptions(CommonOptions):
    """The options of a classifier's run; `transnext train` has an option for each, with its help.

    None stands for the recipe's value, where it has one.
    """

    files: ClassVar[tuple[str, ...]] = ("data_root", "weights")
    sources: ClassVar[tuple[str, ...]] = ("data", "data_val")

    recipe: Annotated[
        str,
        "Hyper-parameters: finetune (your own folder), imagenet_224, imagenet_256, "
        "imagenet_384_ft or digits.",
    ]
    data: Annotated[
        str | None,
        "Folder with train/ and val/ or ImageNet's archives, CSV file, shards (and --data-val), "
        "data set by name (hfds/imagenet-1k, torch/cifar10), or digits.",
    ] = None
    data_root: Annotated[
        Path | None,
        "Where a data set given by name is kept, and what paths in a CSV file start from.",
    ] = None
    model: Annotated[str | None, "Model, if not the recipe's."] = None
    weights: Annotated[str | None, "Weights to start from: a file, or a published name."] = None
    accumulate: Annotated[
        int, "Batches per optimiser step; those that fill none at an epoch's end are left out."
    ] = 1
    keep_scaler: Annotated[
        bool,
        "Train in float16 with one gradient scaler for the whole run, rather than with a new one "
        "in every epoch as published.",
    ] = False
    fused: Annotated[bool, "Use PyTorch's fused AdamW: the same steps, rounded otherwise."] = False
    img_size: Annotated[int | None, "Image side, if not the recipe's."] = None
    decoder: Annotated[
        str | None,
        "How training images are decoded: exact (the recipes'), or scaled, which decodes large "
        "JPEGs at 1/2, 1/4 or 1/8 where the smallest crop still has more pixels than the model.",
    ] = None
    pretrain_size: Annotated[
        int | None,
        "Image side that scales the position bias, if not the recipe's. It belongs to the weights: "
        "those of --weights bring theirs, and another one is refused.",
    ] = None
    num_classes: Annotated[int | None, "Classes, if not the recipe's; another head is new."] = None
    layer_decay: Annotated[
        float | None, "Multiply the learning rate by this from each block to the one before."
    ] = None
    freeze: Annotated[
        str | None,
        "Leave parameters as they are: those of so many stages, or names such as block1,*.norm1.*",
    ] = None
    linear_probe: Annotated[bool, "Train the classifier only."] = False
    class_weights: Annotated[
        str | None,
        "Weights of the classes in the loss: balanced, a number for each (1,2,1), or cat=2,dog=3.",
    ] = None
    cuda_graphs: Annotated[
        bool,
        "Record a training step into CUDA graphs and replay it, which needs no Python between its "
        "kernels; AdamW is the fused one.",
    ] = False
    data_val: Annotated[
        str | None,
        "Where the images for validation are, if not in --data; then both name one split: a folder "
        "of classes, a CSV file or shards.",
    ] = None
    epoch_length: Annotated[
        int | None, "Images of an epoch, of shards that can only be read in order (pipe:, URLs)."
    ] = None
    val_length: Annotated[
        int | None, "Images of a validation, of shards that can only be read in order."
    ] = None

    @property
    def captures(self) -> bool:
        """Whether steps are recorded into CUDA graphs."""
        return self.cuda_graphs


_POSITIVE = (
    "epochs",
    "batch_size",
    "lr",
    "pretrain_size",
    "num_nodes",
    "early_stop",
    "limit_train_batches",
    "limit_val_batches",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
    "connect_timeout",
)
_POSITIVE_OF_CLASSIFIERS = (
    "img_size",
    "num_classes",
    "accumulate",
    "layer_decay",
    "epoch_length",
    "val_length",
)


def check_positive(options: CommonOptions, names: Sequence[str]) -> None:
    """Raise ValueError where an option of these is given and not positive."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise ValueError(f"{_option(name)}: got {value}, needs a positive number")


def check_common_options(options: CommonOptions) -> None:
    """Refuse what cannot be meant, whatever is trained.

    Raises
    ------
    ValueError
        Names the option.
    """
    check_positive(options, _POSITIVE)
    if options.ema_decay is not None and not 0 <= options.ema_decay < 1:
        raise ValueError(f"--ema-decay: got {options.ema_decay}, needs 0 to less than 1")
    if options.scale_lr and options.lr is not None:
        raise ValueError(
            f"--scale-lr: got it together with --lr {options.lr}, needs one of the two: --lr is "
            "the rate of this run, whatever its batch"
        )
    if options.profile and options.dry_run:
        raise ValueError("--profile: got it together with --dry-run, needs one of the two")
    if options.workers < 0:
        raise ValueError(f"--workers: got {options.workers}, needs 0 or more")
    if not 0 <= options.seed <= _LARGEST_SEED:
        raise ValueError(f"--seed: got {options.seed}, needs 0 to {_LARGEST_SEED}")
    check_side(options, "pretrain_size")
    if options.backend is not None:
        check_backend_name(options.backend, "--backend")
    parse_devices(options.devices)


def check_options(options: RunOptions) -> None:
    """Refuse what cannot be meant.

    Raises
    ------
    ValueError
        Names the option.
    """
    check_positive(options, _POSITIVE_OF_CLASSIFIERS)
    check_common_options(options)
    if options.layer_decay is not None and options.layer_decay > 1:
        raise ValueError(f"--layer-decay: got {options.layer_decay}, needs 1 at most")
    if options.shard_optimizer and options.cuda_graphs:
        raise ValueError(
            "--shard-optimizer: got it together with --cuda-graphs, needs one of the two"
        )
    limit = options.limit_train_batches
    if limit is not None and limit < options.accumulate:
        raise ValueError(
            f"--limit-train-batches: got {limit}, needs at least --accumulate {options.accumulate}"
        )
    if options.decoder not in (None, *_DECODERS):
        raise ValueError(f"--decoder: got {options.decoder}, needs {' or '.join(_DECODERS)}")
    check_side(options, "img_size")


def check_side(options: CommonOptions, name: str) -> None:
    """Raise ValueError where the side of images is given and below the models' least."""
    value = getattr(options, name)
    if value is not None and value < MIN_SIZE:
        raise ValueError(f"{_option(name)}: got {value}, needs at least {MIN_SIZE}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def portable_options(options: CommonOptions) -> dict[str, Any]:
    """Return the options as JSON takes them, so that they mean the same in another folder."""
    from .sources import absolute  # not for every command that only shows its options

    values = dataclasses.asdict(options)
    values["config"] = None  # all that it says is said by the others
    for name in options.files:
        if values[name] is not None and os.path.exists(values[name]):
            values[name] = os.path.abspath(values[name])
    for name in options.sources:
        if values[name] is not None:
            values[name] = absolute(values[name])
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in values.items()
    }
