"""The options of a detector's or segmentor's run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from ..training.options import CommonOptions, check_common_options, check_positive, check_side

__all__ = ["DenseOptions", "check_dense_options"]


@dataclass(frozen=True, kw_only=True)
class DenseOptions(CommonOptions):
    """The options of a run, each with its help; the commands have an option for each.

    None stands for the recipe's value, where it has one.
    """

    files: ClassVar[tuple[str, ...]] = ("data", "weights", "backbone_weights")

    recipe: Annotated[
        str,
        "Hyper-parameters: finetune (your own set), published (COCO, ADE20K), or digit_scenes (the "
        "small models of this package).",
    ] = "finetune"
    data: Annotated[
        Path | None,
        "Folder with both splits: COCO JSON, YOLO txt with data.yaml, Pascal VOC XML, mask images.",
    ] = None
    val_share: Annotated[
        float | None,
        "Hold back this share of the training images for validation, drawn by --seed, instead of "
        "a split of its own.",
    ] = None
    model: Annotated[
        str | None, "Model, such as maskrcnn_transnext_tiny or upernet_transnext_pico."
    ] = None
    weights: Annotated[
        str | None,
        "Weights to start from, with any number of classes: a file, or the name of a published "
        "model.",
    ] = None
    backbone_weights: Annotated[
        str | None, "Classifier's weights for the backbone alone, such as transnext_tiny."
    ] = None
    iterations: Annotated[
        int | None,
        "Length in optimiser steps on an endless stream of images, instead of in epochs.",
    ] = None
    validate_every: Annotated[
        int | None, "Epochs (of a run in iterations: iterations) between two validations."
    ] = None
    accumulate: Annotated[
        int | None,
        "Batches per optimiser step, if not the recipe's; those that fill none at an epoch's end "
        "are left out.",
    ] = None
    size: Annotated[
        int | None,
        "Short side that images are resized to, if not what --weights of another run say, or else "
        "the model's; all other sides go with it.",
    ] = None
    published_slip: Annotated[
        bool | None,
        "Train the last stage's patch embedding and norm at the rate of the heads, as the "
        "published DINO and Mask2Former did by mistake.  [recipe's: published yes, finetune no]",
    ] = None
    freeze: Annotated[
        str | None,
        "Leave parameters as they are: names such as backbone.block1,backbone.patch_embed1",
    ] = None
    allow_missing: Annotated[
        bool, "Leave out images whose files are missing, and say how many."
    ] = False


def check_dense_options(options: DenseOptions) -> None:
    """Refuse what cannot be meant.

    Raises
    ------
    ValueError
        Names the option.
    """
    check_common_options(options)
    check_positive(options, ("iterations", "validate_every", "accumulate", "size"))
    check_side(options, "size")
    if options.epochs is not None and options.iterations is not None:
        raise ValueError(
            f"--iterations: got {options.iterations} together with --epochs {options.epochs}, "
            "needs one of the two"
        )
    if options.weights is not None and options.backbone_weights is not None:
        raise ValueError("--backbone-weights: got it together with --weights, needs one of the two")
    if options.val_share is not None and not 0 < options.val_share < 1:
        raise ValueError(f"--val-share: got {options.val_share}, needs more than 0 and less than 1")
    if options.data is None:
        raise ValueError("--data: got nothing, needs a folder of annotated images")
