"""Pictures of a report, as PNG in text for a page: curves, confusion, images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from .history import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["confusion_picture", "curves_picture", "image_picture"]

_SMALLEST_SIDE = 128  # of an image on the page


def curves_picture(
    rows: Sequence[Row], title: str = "accuracy", scores: Sequence[str] = ("val_top1", "val_top5")
) -> str:
    """Draw losses, scores and the learning rate over the epochs.

    Parameters
    ----------
    rows : Sequence[Row]
        One per epoch.
    title, scores : str, Sequence[str]
        Of the scores' axes, and which they are.
    """
    figure = _figure(10.5, 3.0)
    loss, scored, rate = figure.subplots(1, 3)
    for axes, of_axes, names in (
        (loss, "loss", ("train_loss", "val_loss")),
        (scored, title, scores),
        (rate, "learning rate", ("lr",)),
    ):
        for name in names:
            points = [(row["epoch"], row[name]) for row in rows if name in row]
            axes.plot(*zip(*points, strict=True) if points else ((), ()), ".-", label=name)
        axes.set_title(of_axes)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend()
    return _as_text(figure)


def confusion_picture(confusion: Tensor, names: Sequence[str]) -> str:
    """Draw a confusion matrix, each row as shares of its class.

    Parameters
    ----------
    confusion : Tensor
        [classes, classes], right classes in rows.
    names : Sequence[str]
        Of the classes.
    """
    shares = confusion.double() / confusion.sum(dim=1, keepdim=True).clamp(min=1)
    side = 2.5 + 0.25 * len(names)
    figure = _figure(side + 1, side)
    axes = figure.subplots()
    shown = axes.imshow(shares.numpy(), vmin=0, vmax=1, cmap="viridis")
    axes.set_xticks(range(len(names)), [_plain(name) for name in names], rotation=90)
    axes.set_yticks(range(len(names)), [_plain(name) for name in names])
    axes.set_xlabel("answer")
    axes.set_ylabel("class")
    figure.colorbar(shown, ax=axes, fraction=0.046)
    return _as_text(figure)


def image_picture(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> str:
    """Return a normalised image float32 [3, H, W] as one sees it."""
    scale = torch.tensor(std).view(3, 1, 1)
    pixels = ((image * scale + torch.tensor(mean).view(3, 1, 1)) * 255).round().clamp(0, 255)
    picture = Image.fromarray(pixels.byte().permute(1, 2, 0).contiguous().numpy())
    factor = max(1, -(-_SMALLEST_SIDE // min(picture.size)))
    picture = picture.resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
    )
    target = io.BytesIO()
    picture.save(target, "PNG")
    return _encoded(target)


def _figure(width: float, height: float) -> Figure:
    # Without pyplot, which would choose a window system and keep every figure.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _as_text(figure: Any) -> str:
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=100)
    return _encoded(target)


def _encoded(target: io.BytesIO) -> str:
    return "data:image/png;base64," + base64.b64encode(target.getvalue()).decode()


def _plain(name: str, longest: int = 24) -> str:
    """Return a name for an axis: short, and without what matplotlib takes for a formula."""
    short = name if len(name) <= longest else f"{name[: longest - 1]}…"
    return short.replace("$", r"\$")
