"""`transnext train`: the command line of `transnext_models.training`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .console import INTERRUPTED, Debug, command, messages, usage_error

_EXTRA = {"lightning", "torchmetrics", "timm", "torchvision", "mlxtend", "skimage", "scipy"}


@command
def train(
    recipe: Annotated[
        str,
        typer.Option(
            help="Hyper-parameters: digits, imagenet_224, imagenet_256 or imagenet_384_ft."
        ),
    ],
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
        Path | None, typer.Option(help="Continue a run: its folder, or one of its checkpoints.")
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
    float16: Annotated[bool, typer.Option(help="Also export float16 weights.")] = True,
    debug: Debug = False,
) -> None:
    """Train or fine-tune a classifier.

    Writes to the output folder: config.json, metrics.csv (one row per epoch), checkpoints/last.ckpt
    and best.ckpt, and at the end model.safetensors and model_float16.safetensors, the last weights
    (the averaged ones where the recipe averages) for `transnext classify --weights`.
    """
    options = {name: value for name, value in locals().items() if name not in ("float16", "debug")}
    if output is None:
        if resume is None:
            usage_error("a folder for the run is needed", "--output")
        output = options["output"] = resume if resume.is_dir() else resume.parent.parent
    run, run_options = _load()
    try:
        result = run(run_options(**options, half=float16))
    except KeyboardInterrupt:
        resumable = (output / "checkpoints" / "last.ckpt").exists()
        hint = f"; continue with --resume {output}" if resumable else ""
        messages().print(f"interrupted{hint}", style="yellow", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    if not result.is_first_process:
        return
    for name, value in sorted(result.metrics.items()):
        typer.echo(f"{name}: {value:.4f}")
    typer.echo(f"weights: {result.weights}")
    if result.half_weights is not None:
        typer.echo(f"float16 weights: {result.half_weights}")


def _load() -> tuple[Any, Any]:
    """Import the trainer, which needs the packages of the extra `train`."""
    try:
        from ..training import run
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in _EXTRA:
            raise RuntimeError(
                f"training needs the package {missing}: pip install 'transnext[train]'"
            ) from None
        raise
    return run.train, run.RunOptions


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(train)


if __name__ == "__main__":
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    register(alone)
    alone()
