"""Recipes are the published ones, and become the published optimiser and schedule."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from transnext_models import create_model
from transnext_models.classification.preprocess import Preprocess
from transnext_models.layers.drop import DropPath
from transnext_models.training.augmentation import image_augmentation
from transnext_models.training.classification import build_model
from transnext_models.training.optimisation import build_optimizer, parameter_groups
from transnext_models.training.options import RunOptions
from transnext_models.training.recipes import ImageAugmentation, get_recipe
from transnext_models.training.settings import Settings


@pytest.mark.parametrize(
    ("name", "size"), [("imagenet_224", 224), ("imagenet_256", 256)], ids=["224", "256"]
)
def test_pretraining_recipe_is_the_published_one(name: str, size: int) -> None:
    recipe = get_recipe(name)
    assert (recipe.img_size, recipe.pretrain_size, recipe.num_classes) == (size, size, 1000)
    assert (recipe.epochs, recipe.warmup_epochs, recipe.total_batch) == (300, 5, 1024)
    assert (recipe.lr, recipe.min_lr, recipe.warmup_lr) == (1e-3, 1e-5, 1e-6)
    assert (recipe.betas, recipe.eps, recipe.weight_decay) == ((0.9, 0.999), 1e-8, 0.05)
    assert (recipe.clip_norm, recipe.ema_decay, recipe.schedule) == (1.0, None, "cosine")
    assert recipe.precision == "16-mixed"
    assert (recipe.delayed_rate, recipe.fresh_scaler, recipe.fused) == (True, True, False)
    assert recipe.label_smoothing == 0.1
    assert recipe.augmentation == ImageAugmentation(
        auto_augment="rand-m9-mstd0.5-inc1",
        color_jitter=0.4,
        interpolation="bicubic",
        mixup=0.8,
        cutmix=1.0,
        mixup_switch=0.5,
        random_erase=0.25,
        random_erase_mode="pixel",
        repeats=3,
    )
    assert (recipe.crop_pct, recipe.crop_mode) == (0.875, "center")


def test_fine_tuning_recipe_is_the_published_one() -> None:
    recipe = get_recipe("imagenet_384_ft")
    assert (recipe.img_size, recipe.pretrain_size, recipe.epochs) == (384, 224, 5)
    assert (recipe.lr, recipe.schedule, recipe.weight_decay) == (1e-5, "constant", 0.05)
    assert recipe.drop_path == {"transnext_small": 0.7, "transnext_base": 0.8}
    assert recipe.augmentation == ImageAugmentation(cutmix=0.0)
    assert (recipe.crop_pct, recipe.crop_mode) == (1.0, "squash")


def test_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'imagenet'.*imagenet_224.*digits"):
        get_recipe("imagenet")


def test_weight_decay_spares_exactly_the_published_parameters() -> None:
    model = create_model("transnext_micro", num_classes=5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    spared, decayed = parameter_groups(model, get_recipe("imagenet_224"))
    assert (spared["weight_decay"], decayed["weight_decay"]) == (0.0, 0.05)
    spared_names = {names[id(parameter)] for parameter in spared["params"]}
    decayed_names = {names[id(parameter)] for parameter in decayed["params"]}
    assert spared_names | decayed_names == set(names.values())
    assert not spared_names & decayed_names

    mixer = {"mlp.fc1.weight", "mlp.dwconv.dwconv.weight", "mlp.fc2.weight"}
    tokens = {"attn.learnable_tokens", "attn.learnable_bias"}
    pooled = {"attn.q.weight", "attn.kv.weight", "attn.sr.weight", "attn.proj.weight"}
    for block, expected in (
        ("block1.0.", mixer | tokens | pooled),
        ("block4.1.", mixer | {"attn.qkv.weight", "attn.proj.weight"}),
    ):
        inside = {name for name in decayed_names if name.startswith(block)}
        assert inside == {block + name for name in expected}
    assert {name for name in decayed_names if not name.startswith("block")} == {
        *(f"patch_embed{stage}.proj.weight" for stage in (1, 2, 3, 4)),
        "head.weight",
    }


def test_micro_has_186_decayed_and_431_undecayed_parameters() -> None:
    with torch.device("meta"):
        model = create_model("transnext_micro")
    spared, decayed = parameter_groups(model, get_recipe("imagenet_224"))
    assert (len(decayed["params"]), len(spared["params"])) == (186, 431)


def test_optimizer_is_adamw_with_the_recipe_s_numbers() -> None:
    optimizer = build_optimizer(torch.nn.Linear(2, 2), get_recipe("imagenet_224"), 0.25)
    assert type(optimizer) is torch.optim.AdamW
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (2.5e-4, (0.9, 0.999), 1e-8)
        assert not group["fused"]


@pytest.mark.parametrize(
    ("model", "rate"), [("transnext_small", 0.7), ("transnext_base", 0.8), ("transnext_tiny", 0.25)]
)
def test_fine_tuning_drops_paths_at_its_own_rate(model: str, rate: float, tmp_path: Path) -> None:
    options = RunOptions(recipe="imagenet_384_ft", model=model, output=tmp_path)
    settings = Settings.of(options, 1)
    assert settings.drop_path == rate
    with torch.device("meta"):
        built = build_model(options, settings, num_classes=1000, pretrain_size=224)
    assert built.training
    rates = [module.rate for module in built.modules() if isinstance(module, DropPath)]
    assert max(rates) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("recipe", "size", "crop"),
    [
        ("imagenet_224", None, ("center", 0.875)),
        ("imagenet_224", 383, ("center", 0.875)),
        ("imagenet_224", 384, ("squash", 1.0)),
        ("imagenet_384_ft", None, ("squash", 1.0)),
        ("finetune", None, ("center", 0.875)),
        ("digits", None, ("squash", 1.0)),
    ],
)
def test_validation_images_are_cropped_as_published(
    recipe: str, size: int | None, crop: tuple[str, float], tmp_path: Path
) -> None:
    """From 384 on the whole image is warped."""
    options = RunOptions(recipe=recipe, output=tmp_path, img_size=size)
    preprocess = Settings.of(options, 1).preprocess
    assert (preprocess.crop_mode, preprocess.crop_pct) == crop


def test_augmentation_is_in_the_published_order() -> None:
    recipe = get_recipe("imagenet_224")
    assert recipe.augmentation is not None
    preprocess = Preprocess(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    steps = image_augmentation(recipe.augmentation, preprocess).transforms
    assert [type(step).__name__ for step in steps] == [
        "RandomResizedCropAndInterpolation",
        "RandomHorizontalFlip",
        "RandAugment",
        "MaybeToTensor",
        "Normalize",
        "RandomErasing",
    ]
    crop, flip, augment, _, normalise, erase = steps
    assert (crop.scale, crop.ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))
    assert "bicubic" in str(crop.interpolation).lower()
    assert flip.p == 0.5
    assert augment.num_layers == 2
    assert augment.choice_weights is None  # each of the operations as likely, with replacement
    assert len(augment.ops) == 15
    for operation in augment.ops:
        assert (operation.prob, operation.magnitude, operation.magnitude_std) == (0.5, 9, 0.5)
        assert operation.hparams["img_mean"] == (124, 116, 104)
    assert normalise.mean.tolist() == pytest.approx(preprocess.mean)
    assert erase.probability == 0.25
    assert (erase.min_area, erase.max_area) == (0.02, 1 / 3)
    assert erase.log_aspect_ratio == pytest.approx((math.log(0.3), -math.log(0.3)))
    assert (erase.min_count, erase.max_count, erase.per_pixel) == (1, 1, True)
