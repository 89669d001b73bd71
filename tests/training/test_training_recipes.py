"""Recipes are the published ones, and become the published optimiser and schedule."""

from __future__ import annotations

import math

import pytest
import torch

from transnext_models import create_model
from transnext_models.training.optimisation import (
    build_optimizer,
    build_schedule,
    parameter_groups,
)
from transnext_models.training.recipes import RECIPES, ImageAugmentation, get_recipe


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

    block = "block1.0."
    assert {name for name in decayed_names if name.startswith(block)} == {
        block + name
        for name in (
            "attn.learnable_tokens",
            "attn.learnable_bias",
            "attn.q.weight",
            "attn.kv.weight",
            "attn.sr.weight",
            "attn.proj.weight",
            "mlp.fc1.weight",
            "mlp.dwconv.dwconv.weight",
            "mlp.fc2.weight",
        )
    }
    block = "block4.1."
    assert {name for name in decayed_names if name.startswith(block)} == {
        block + name
        for name in (
            "attn.qkv.weight",
            "attn.proj.weight",
            "mlp.fc1.weight",
            "mlp.dwconv.dwconv.weight",
            "mlp.fc2.weight",
        )
    }
    assert {name for name in decayed_names if not name.startswith("block")} == {
        *(f"patch_embed{stage}.proj.weight" for stage in (1, 2, 3, 4)),
        "head.weight",
    }


def _rates(name: str, epochs: int, factor: float, asked: list[int]) -> list[float]:
    """Learning rates at the start of the epochs `asked`."""
    model = torch.nn.Linear(2, 2)
    recipe = RECIPES[name]
    optimizer = build_optimizer(model, recipe, factor)
    schedule = build_schedule(optimizer, recipe, epochs, factor)
    rates = [optimizer.param_groups[0]["lr"]]
    for epoch in range(1, epochs + 1):
        if schedule is not None:
            schedule.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    return [rates[epoch] for epoch in asked]


def test_schedule_warms_up_then_follows_the_cosine() -> None:
    def cosine(epoch: int) -> float:
        return 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * epoch / 300)) / 2

    asked = [0, 1, 4, 5, 6, 150, 299, 300]
    expected = [1e-6, 2.008e-4, 8.002e-4, cosine(5), cosine(6), 5.05e-4, cosine(299), 1e-5]
    assert _rates("imagenet_224", 300, 1.0, asked) == pytest.approx(expected, rel=1e-9)


def test_another_total_batch_scales_the_whole_schedule() -> None:
    asked = [0, 3, 5, 100, 300]
    full = _rates("imagenet_224", 300, 1.0, asked)
    half = _rates("imagenet_224", 300, 0.5, asked)
    assert half == pytest.approx([rate / 2 for rate in full], rel=1e-9)


def test_fine_tuning_rate_is_constant() -> None:
    assert _rates("imagenet_384_ft", 5, 1.0, [0, 1, 4]) == [1e-5] * 3


def test_optimizer_is_adamw_with_the_recipe_s_numbers() -> None:
    optimizer = build_optimizer(torch.nn.Linear(2, 2), get_recipe("imagenet_224"), 0.25)
    assert type(optimizer) is torch.optim.AdamW
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (2.5e-4, (0.9, 0.999), 1e-8)
