"""The backbone of a detector or segmentor."""

from __future__ import annotations

from typing import Any

from ..transnext import TransNeXt
from ..variants import architecture_arguments
from .published import DenseModel

__all__ = ["build_backbone", "check_parts"]


def build_backbone(model: DenseModel, **options: Any) -> TransNeXt:
    """Return the backbone of a published model, with random weights.

    Parameters
    ----------
    model : DenseModel
        It gives the widths and depths, the image side of training, the rate of stochastic depth and
        which maps are taken. The position bias is interpolated, as published.
    **options
        Any parameter of :class:`TransNeXt` but ``features_only``, over these.
    """
    arguments = architecture_arguments(model.backbone) | {
        "img_size": model.method.img_size,
        "drop_path_rate": model.drop_path_rate,
        "out_indices": model.method.stages,
    }
    return TransNeXt(**(arguments | options), features_only=True)


def check_parts(backbone: TransNeXt, num_classes: int) -> None:
    """Check what a detector is put together from: a backbone of four maps, and classes.

    Raises
    ------
    ValueError
        If the backbone is a classifier or gives other maps, or there is no class.
    """
    if not backbone.features_only or len(backbone.feature_info.out_indices) != 4:
        raise ValueError("backbone: got another one, needs features_only=True with four maps")
    if num_classes < 1:
        raise ValueError(f"num_classes: got {num_classes}, needs at least 1")
