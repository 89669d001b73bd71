"""``transnext models``: the variants, their sizes, costs, published accuracy and weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from .console import JSON_OPTION, Debug, as_json, command, note, print_rows

if TYPE_CHECKING:
    from ..variants import Checkpoint, Variant

Json = Annotated[bool, typer.Option(JSON_OPTION, help="Print JSON instead of a table.")]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("models")(models)


@command
def models(json: Json = False, debug: Debug = False) -> None:
    """List the models by name, with their sizes, published accuracy and where the weights are."""
    from ..variants import VARIANTS

    entries = [
        (variant, weights) for variant in VARIANTS.values() for weights in variant.checkpoints
    ]
    if json:
        as_json([_entry(variant, checkpoint) for variant, checkpoint in entries])
        return
    titles = ("model", "image", "parameters", "multiply-adds", "top-1", "weights")
    print_rows(
        [[Text(title, style="bold") for title in titles], *(_row(*entry) for entry in entries)],
        right=(1, 2, 3, 4),
    )
    note(
        "",
        "top-1: published, on ImageNet-1K. multiply-adds: for one image of that size. "
        "Weights are downloaded when first used.",
    )


def _row(variant: Variant, checkpoint: Checkpoint) -> list[str]:
    from ..checkpoints.hub import HubFile, cached

    top_1 = checkpoint.metrics.imagenet_1k
    where = "in this package"
    if checkpoint.repo is not None:
        is_here = cached(HubFile(checkpoint.repo, checkpoint.file)) is not None
        where = checkpoint.repo + (" (downloaded)" if is_here else "")
    return [
        _name(variant, checkpoint),
        f"{checkpoint.img_size}",
        f"{variant.parameters / 1e6:.1f} M" if variant.parameters else "-",
        "-" if checkpoint.gmacs is None else f"{checkpoint.gmacs:.2f} G",
        "-" if top_1 is None else f"{top_1:.1f} %",
        where,
    ]


def _name(variant: Variant, checkpoint: Checkpoint) -> str:
    """Return the shortest name that means this checkpoint."""
    is_default = checkpoint == variant.default
    return variant.name if is_default else f"{variant.name}.{checkpoint.tag}"


def _entry(variant: Variant, checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "model": _name(variant, checkpoint),
        "architecture": variant.name,
        "tag": checkpoint.tag,
        "img_size": checkpoint.img_size,
        "parameters": variant.parameters or None,
        "gmacs": checkpoint.gmacs,
        "imagenet_1k_top_1": checkpoint.metrics.imagenet_1k,
        "num_classes": checkpoint.num_classes,
        "repo": checkpoint.repo,
        "file": checkpoint.file,
    }
