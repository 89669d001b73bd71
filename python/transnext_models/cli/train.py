"""`transnext train`: the command line of `transnext_models.training`."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, get_args, get_type_hints

import typer
from rich.text import Text

from ..checkpoints.errors import escaped
from ..dense_training.options import DenseOptions
from ..training.options import CommonOptions, RunOptions
from .console import INTERRUPTED, Debug, command, messages, needs_extra, usage_error
from .subcommands import with_subcommands

_SIGNALLED = 128  # plus its number: as a shell reports a program ended by a signal
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
# Of a switch, its names on the command line, where they are not those that Typer makes.
_FLAGS = {
    "auto_resume": ("--auto-resume",),
    "compile": ("--compile",),
    "cuda_graphs": ("--cuda-graphs",),
    "profile": ("--profile",),
    "half": ("--float16/--no-float16",),
}
# What --resume and --config do not take over.
_OF_ONE_CALL = ("output", "resume", "config", "dry_run", "profile")
_EXTRA = {
    *("lightning", "timm", "torchvision", "mlxtend", "skimage", "scipy"),
    *("torchmetrics", "matplotlib", "jinja2"),
}


def _with_options(kind: type[CommonOptions]) -> Callable[[Callable[..., None]], Any]:
    """Give a command an option for each of a run's, those that a run must have included.

    Whether these are there is seen once it is known what --resume brings.
    """

    def give(function: Callable[..., None]) -> Callable[..., None]:
        parameters = [inspect.Parameter("context", _KEYWORD, annotation=typer.Context)]
        hints = get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            annotated, text = get_args(hints[field.name])
            is_required = field.default is dataclasses.MISSING
            option = typer.Option(*_FLAGS.get(field.name, ()), help=text)
            parameters.append(
                inspect.Parameter(
                    field.name,
                    _KEYWORD,
                    default=None if is_required else field.default,
                    annotation=Annotated[annotated | None if is_required else annotated, option],
                )
            )
        parameters.append(inspect.Parameter("debug", _KEYWORD, default=False, annotation=Debug))
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return function

    return give


@_with_options(RunOptions)
@command
def train(context: typer.Context, **options: Any) -> None:
    """Train or fine-tune a classifier.

    Writes to the output folder: config.json, metrics.csv (one row per epoch), last.ckpt,
    previous.ckpt and best.ckpt in checkpoints, and at the end model.safetensors, the weights of
    the best validation, and last.safetensors, those of the last epoch (the averaged ones where the
    recipe averages), both in float16 too, for `transnext classify --weights`, and report.html.

    A run that was killed, or stopped by ctrl-C or SIGTERM, goes on with --resume FOLDER and ends in
    the weights of one that was not.
    """
    carry_out(context, options, RunOptions, _load())


def carry_out(
    context: typer.Context,
    options: dict[str, Any],
    kind: type[CommonOptions],
    trainer: SimpleNamespace,
) -> None:
    """Train with the options of a command line.

    Parameters
    ----------
    options : dict[str, Any]
        By name.
    kind : type[CommonOptions]
        What they are of.
    trainer : SimpleNamespace
        What `_load` returns.
    """
    options.pop("debug")
    resume = options["resume"]
    if resume is not None:
        if options["output"] is None:
            options["output"] = trainer.run_of(resume)
        options |= _kept(context, kind, trainer.configuration_of(resume))
    elif options["config"] is not None:
        options |= _kept(context, kind, trainer.configuration_to_repeat(options["config"]))
    output = options["output"]
    if output is None and options["dry_run"]:
        options["output"] = output = Path(".")  # nothing is written
    if output is None:
        usage_error("a folder for the run is needed", "--output")
    if options["recipe"] is None:
        usage_error("the name of a recipe is needed", "--recipe")
    if options["dry_run"]:
        found = trainer.dry_run(kind(**options))
        if trainer.is_first_process():
            typer.echo("\n".join(found.lines()))
        return
    try:
        result = trainer.train(kind(**options))
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
    which = ""
    if result.best is not None:
        score = next(value for name, value in result.best.items() if name != "epoch")
        which = f" (best: {score:.4f} in epoch {result.best['epoch']})"
    typer.echo(f"weights: {escaped(str(result.weights))}{which}")
    if result.half_weights is not None:
        typer.echo(f"float16 weights: {escaped(str(result.half_weights))}")
    typer.echo(f"last weights: {escaped(str(result.last_weights))}")


def _kept(
    context: typer.Context, kind: type[CommonOptions], configuration: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the options with which a run began, but for those that are given now."""
    if configuration is None:
        return {}
    kept = {}
    hints = get_type_hints(kind, include_extras=True)
    for name, value in configuration["options"].items():
        if name not in context.params or name in _OF_ONE_CALL:
            continue
        source = context.get_parameter_source(name)
        if source is not None and source.name == "DEFAULT":
            is_path = Path in get_args(get_args(hints[name])[0])
            kept[name] = Path(value) if is_path and value is not None else value
    return kept


def _remark(text: str) -> None:
    messages().print(Text(escaped(text), style="yellow"), soft_wrap=True)


def _load(task: str | None = None) -> SimpleNamespace:
    """Import the trainer, which needs the packages of the extra `train`."""
    with needs_extra("train", "training", _EXTRA):
        from ..training import dry_run, launch, resuming, run
    of_task: dict[str, Any] = {}
    if task is not None:
        from ..dense_training import tasks

        of_task["task"] = {"detect": tasks.DETECTION, "segment": tasks.SEGMENTATION}[task]
    return SimpleNamespace(
        train=functools.partial(run.train, **of_task),
        dry_run=functools.partial(dry_run.dry_run, **of_task),
        RunStopped=run.RunStopped,
        run_of=resuming.run_of,
        configuration_of=resuming.configuration_of,
        configuration_to_repeat=resuming.configuration_to_repeat,
        is_first_process=launch.is_first_process,
    )


@_with_options(DenseOptions)
@command
def detect(context: typer.Context, **options: Any) -> None:
    """Train or fine-tune a detector on own data: Mask R-CNN or DINO.

    The data are COCO JSON, YOLO txt, Pascal VOC or instance maps; classes come from them, and boxes
    need no masks. Files and --resume are those of `transnext train`; model.safetensors is for
    `transnext detect --weights`.
    """
    carry_out(context, options, DenseOptions, _load("detect"))


@_with_options(DenseOptions)
@command
def segment(context: typer.Context, **options: Any) -> None:
    """Train or fine-tune a segmentor on own data: UPerNet or Mask2Former.

    The data are images with mask images of their classes (255: none). Files and --resume are those
    of `transnext train`; model.safetensors is for `transnext segment --weights`.
    """
    carry_out(context, options, DenseOptions, _load("segment"))


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(cls=with_subcommands(detect=detect, segment=segment))(train)


if __name__ == "__main__":
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    register(alone)
    alone()
