"""Recipes of detectors and segmentors as plain data.

`PUBLISHED` are those of the published models (Shi, TransNeXt, CVPR 2024, arXiv 2311.17132, section
4 and the released configurations); `finetune` makes one for a user's own, smaller set out of them,
`digit_scenes` that of the small models in this package. What the data go through is in
`dense_data.pipelines`, losses are the models' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..dense.published import DenseModel

__all__ = [
    "PUBLISHED",
    "RECIPES",
    "DenseRecipe",
    "digit_scenes",
    "finetune",
    "get_recipe",
    "published",
]

RECIPES = ("published", "finetune", "digit_scenes")


@dataclass(frozen=True)
class DenseRecipe:
    """Everything that decides the result of a training run, apart from data, weights and machine.

    Attributes
    ----------
    name : str
        Of `RECIPES`.
    method : str
        What models' names begin with: maskrcnn, dino, upernet, mask2former.
    epochs, iterations : int | None
        Length in passes over the data, or in optimiser steps on an endless stream of them; one of
        the two.
    validate_every : int
        Epochs, or iterations, between two validations.
    batch_size, accumulate, total_batch : int
        Images per device and batch, batches per optimiser step, and images per step on all devices
        that the rates were found for.
    lr, weight_decay, betas, eps
        AdamW's.
    clip_norm : float | None
        Largest norm of all gradients of a step together.
    schedule : str
        "step": times `gamma` from each of the epochs `milestones` on; "poly": (1 - t) to the power
        `power`, where t goes from 0 to 1; "cosine": half a cosine down to 0.
    zero_at_last : bool
        Whether t is 1 in the last step, rather than after it.
    warmup_iterations, warmup_factor : int, float
        Steps in which the rate rises linearly from this factor to the schedule's.
    backbone_lr_factor : float
        Of the backbone's rate.
    class_lr_factor : float
        Of the layers of classes, in a run that begins with weights: those are new where the weights
        are for other classes.
    spares_biases : bool
        Whether no bias and no norm decays; otherwise those whose names contain a `no_weight_decay`.
    no_weight_decay : tuple[str, ...]
        Parts of names of parameters that do not decay.
    published_slip : bool
        Whether the backbone's last stage trains its patch embedding and norm at the rate of the
        heads, as the published models did: their lists stop one stage short.
    drop_path : float | None
        Rate of stochastic depth; None is that of the model.
    jitter : tuple[float, float] | None
        Factors, drawn evenly, on the sides that Mask R-CNN's and UPerNet's images are resized into;
        None is the method's own.
    flips : bool
        Whether half of the images are mirrored.
    precision, loss_scale : str, float | None
        Lightning precision on accelerators; and what losses of float16 are multiplied by, always.
    ema_decay : float | None
        Decay per optimiser step of the averaged weights; None for none.
    early_stop : int | None
        Validations without a better one after which the run ends; None for never.
    freeze : str | None
        Parameters that stay as they are: a number of the backbone's stages, or names; see
        `training.freezing`.
    fresh_scaler : bool
        Whether every epoch begins with a new gradient scaler.
    """

    name: str
    method: str
    epochs: int | None
    iterations: int | None
    validate_every: int
    batch_size: int
    total_batch: int
    lr: float
    schedule: str
    accumulate: int = 1
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float | None = None
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    power: float = 1.0
    zero_at_last: bool = False
    warmup_iterations: int = 0
    warmup_factor: float = 1.0
    backbone_lr_factor: float = 1.0
    class_lr_factor: float = 1.0
    spares_biases: bool = False
    no_weight_decay: tuple[str, ...] = ()
    published_slip: bool = True
    drop_path: float | None = None
    jitter: tuple[float, float] | None = None
    flips: bool = True
    precision: str = "32-true"
    loss_scale: float | None = None
    ema_decay: float | None = None
    early_stop: int | None = None
    freeze: str | None = None
    fresh_scaler: bool = False


_OF_BACKBONE = ("query_embedding", "relative_pos_bias_local", "cpb", "temperature")

_MASK_RCNN = DenseRecipe(
    name="published",
    method="maskrcnn",
    epochs=12,
    iterations=None,
    validate_every=1,
    batch_size=2,
    total_batch=16,
    lr=1e-4,
    schedule="step",
    milestones=(8, 11),
    warmup_iterations=500,
    warmup_factor=0.001,
    no_weight_decay=(*_OF_BACKBONE, "norm"),
)
_DINO = DenseRecipe(
    name="published",
    method="dino",
    epochs=12,
    iterations=None,
    validate_every=1,
    batch_size=1,
    accumulate=2,
    total_batch=16,
    lr=1e-4,
    clip_norm=0.1,
    schedule="step",
    milestones=(11,),
    backbone_lr_factor=0.1,
    spares_biases=True,
    no_weight_decay=tuple(f"backbone.*{name}" for name in _OF_BACKBONE),
)
_UPERNET = replace(
    _MASK_RCNN,
    method="upernet",
    epochs=None,
    iterations=160_000,
    validate_every=16_000,
    lr=6e-5,
    schedule="poly",
    milestones=(),
    warmup_iterations=1500,
    warmup_factor=1e-6,
)
_MASK2FORMER = replace(
    _DINO,
    method="mask2former",
    epochs=None,
    iterations=160_000,
    validate_every=5000,
    batch_size=2,
    accumulate=1,
    clip_norm=0.01,
    schedule="poly",
    milestones=(),
    power=0.9,
    zero_at_last=True,
    no_weight_decay=(*_DINO.no_weight_decay, "query_embed", "query_feat", "level_embed"),
)

PUBLISHED: Mapping[str, DenseRecipe] = {
    recipe.method: recipe for recipe in (_MASK_RCNN, _DINO, _UPERNET, _MASK2FORMER)
}
"""By method. Of every size, but for Mask R-CNN's Base; see `published`."""

_STATIC_SCALE = 512.0


def published(model: DenseModel) -> DenseRecipe:
    """Return the recipe of a published model: Base of Mask R-CNN was trained in float16."""
    recipe = PUBLISHED[_method(model)]
    if recipe.method == "maskrcnn" and model.size == "base":
        return replace(recipe, precision="16-mixed", loss_scale=_STATIC_SCALE)
    return recipe


def finetune(model: DenseModel) -> DenseRecipe:
    """Return the recipe for a user's own set: short, on one device, from weights or without.

    At the rate that suits layers that have learned, new class layers say the commonest class
    everywhere for hundreds of steps; they learn ten times as fast.
    """
    recipe = PUBLISHED[_method(model)]
    is_detector = recipe.epochs is not None
    return replace(
        recipe,
        name="finetune",
        epochs=30 if is_detector else None,
        iterations=None if is_detector else 2000,
        validate_every=1 if is_detector else 200,
        batch_size=2 if is_detector else 8,
        accumulate=1,
        total_batch=2 if is_detector else 8,
        lr=1e-4,
        clip_norm=recipe.clip_norm or 1.0,
        schedule="cosine",
        milestones=(),
        warmup_iterations=100,
        warmup_factor=0.001,
        class_lr_factor=10.0,
        published_slip=False,
        drop_path=0.1,
        jitter=(0.75, 1.25) if is_detector else None,
    )


def digit_scenes(model: DenseModel) -> DenseRecipe:
    """Return the recipe of the models that this package ships: short, on a CPU of two cores."""
    recipe = finetune(model)
    is_detector = recipe.iterations is None
    return replace(
        recipe,
        name="digit_scenes",
        epochs=None,
        iterations=2000 if is_detector else 3000,
        validate_every=1000,
        batch_size=4,
        total_batch=4,
        lr=8e-4,
        clip_norm=1.0,
        warmup_iterations=150,
        class_lr_factor=1.0,
        spares_biases=True,
        drop_path=0.05,
        jitter=None if is_detector else (0.8, 1.25),
        flips=False,  # a mirrored digit is none
        ema_decay=0.99,
    )


def get_recipe(name: str, model: DenseModel) -> DenseRecipe:
    """Return the recipe of a model by name; ValueError listing the known ones otherwise."""
    if name not in RECIPES:
        raise ValueError(f"--recipe: got {name!r}, needs one of {', '.join(RECIPES)}")
    return _OF_NAMES[name](model)


def _method(model: DenseModel) -> str:
    return model.method.name.partition("_")[0]


_OF_NAMES = {"published": published, "finetune": finetune, "digit_scenes": digit_scenes}
