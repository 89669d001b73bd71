"""`transnext train`: the command line of `transnext_models.training`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer
from rich.text import Text

from transnext_ops.distribution import install_hint

from .console import INTERRUPTED, Debug, command, messages, usage_error

_SIGNALLED = 128  # plus its number: as a shell reports a program ended by a signal
_EXTRA = {"lightning", "timm", "torchvision", "mlxtend", "skimage", "scipy"}


@command
def train(
    context: typer.Context,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Hyper-parameters: digits, imagenet_224, imagenet_256 or imagenet_384_ft."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for all that the run writes; that of --resume without it."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder with train/<class>/ and val/<class>/, a data set that timm creates "
            "(torch/cifar10, hfds/imagenet-1k), or digits."
        ),
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Where a data set given by name is kept.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model, if not the recipe's.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Weights to start from: a file, or a published name.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Length, if not the recipe's.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images per device and step, if not the recipe's.")
    ] = None,
    accumulate: Annotated[int, typer.Option(help="Batches per optimiser step.")] = 1,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate of this run. Without it the recipe's is scaled by total batch "
            "/ recipe's total batch (1024 for ImageNet, 64 for digits)."
        ),
    ] = None,
    img_size: Annotated[int | None, typer.Option(help="Image side, if not the recipe's.")] = None,
    pretrain_size: Annotated[
        int | None, typer.Option(help="Image side that scales the position bias.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(help="Classes, if not the recipe's; another head is new.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Continue a run: its folder, or one of its checkpoints. It keeps the options that "
            "are not given anew."
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Lightning precision, such as 32-true, 16-mixed, bf16-mixed."),
    ] = None,
    devices: Annotated[
        str, typer.Option(help="auto, a number of devices, or their indices: 0,1.")
    ] = "auto",
    num_nodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    workers: Annotated[int, typer.Option(help="Loading processes per device.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    backend: Annotated[
        str | None, typer.Option(help="Operator backend; the best available without it.")
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
    limit_train_batches: Annotated[
        int | None, typer.Option(help="Cut every epoch to so many batches.")
    ] = None,
    limit_val_batches: Annotated[
        int | None, typer.Option(help="Cut every validation to so many batches.")
    ] = None,
    checkpoint_every_steps: Annotated[
        int | None,
        typer.Option(help="Write a checkpoint after so many optimiser steps too, not only epochs."),
    ] = None,
    checkpoint_every_minutes: Annotated[
        float | None,
        typer.Option(help="Write a checkpoint after so many minutes too, not only epochs."),
    ] = None,
    float16: Annotated[bool, typer.Option(help="Also export float16 weights.")] = True,
    debug: Debug = False,
) -> None:
    """Train or fine-tune a classifier.

    Writes to the output folder: config.json, metrics.csv (one row per epoch), last.ckpt,
    previous.ckpt and best.ckpt in checkpoints, and at the end model.safetensors and
    model_float16.safetensors, the last weights (the averaged ones where the recipe averages) for
    `transnext classify --weights`.

    A run that was killed, or stopped by ctrl-C or SIGTERM, goes on with --resume FOLDER and ends in
    the weights of one that was not.
    """
    options = {
        name: value
        for name, value in locals().items()
        if name not in ("context", "float16", "debug")
    }
    options["half"] = float16
    trainer = _load()
    if resume is not None:
        if output is None:
            output = options["output"] = trainer.run_of(resume)
        options |= _kept(context, trainer.configuration_of(resume))
    if output is None:
        usage_error("a folder for the run is needed", "--output")
    if options["recipe"] is None:
        usage_error("the name of a recipe is needed", "--recipe")
    try:
        result = trainer.train(trainer.RunOptions(**options))
    except trainer.RunStopped as stop:
        if trainer.is_first_process():
            _remark(f"stopped by {stop}; continue with --resume {output}")
        raise typer.Exit(_SIGNALLED + stop.number) from None
    except KeyboardInterrupt:
        begun = (output / "config.json").exists()
        _remark("interrupted" + (f"; continue with --resume {output}" if begun else ""))
        raise typer.Exit(INTERRUPTED) from None
    if not result.is_first_process:
        return
    for name, value in sorted(result.metrics.items()):
        typer.echo(f"{name}: {value:.4f}")
    typer.echo(f"weights: {result.weights}")
    if result.half_weights is not None:
        typer.echo(f"float16 weights: {result.half_weights}")


def _kept(context: typer.Context, configuration: dict[str, Any] | None) -> dict[str, Any]:
    """The options with which a run began, but for those that are given now."""
    if configuration is None:
        return {}
    parameters = {"half": "float16"}
    kept = {}
    for name, value in configuration["options"].items():
        parameter = parameters.get(name, name)
        if parameter not in context.params or parameter in ("output", "resume"):
            continue
        source = context.get_parameter_source(parameter)
        if source is not None and source.name == "DEFAULT":
            kept[name] = Path(value) if name == "data_root" and value is not None else value
    return kept


def _remark(text: str) -> None:
    messages().print(Text(text, style="yellow"), soft_wrap=True)


def _load() -> SimpleNamespace:
    """Import the trainer, which needs the packages of the extra `train`."""
    try:
        from ..training import launch, resuming, run
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in _EXTRA:
            raise RuntimeError(
                f"training needs the package {missing}: {install_hint('train')}"
            ) from None
        raise
    return SimpleNamespace(
        train=run.train,
        RunOptions=run.RunOptions,
        RunStopped=run.RunStopped,
        run_of=resuming.run_of,
        configuration_of=resuming.configuration_of,
        is_first_process=launch.is_first_process,
    )


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(train)


if __name__ == "__main__":
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    register(alone)
    alone()
