"""The published recipes to the letter: rates, groups of parameters, pipelines."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from requirements import needs
from transnext_models import create_model
from transnext_models.dense.published import DEMONSTRATORS, DENSE_MODELS, find_dense_model
from transnext_models.dense_data.geometry import Flip, Resize, ScaledResize
from transnext_models.dense_data.pipelines import METHODS, method_at
from transnext_models.dense_training.options import DenseOptions
from transnext_models.dense_training.parameter_groups import parameter_groups
from transnext_models.dense_training.rates import rate_factor
from transnext_models.dense_training.recipes import (
    PUBLISHED,
    digit_scenes,
    finetune,
    get_recipe,
    published,
)
from transnext_models.dense_training.settings import DenseSettings

pytestmark = needs("torchvision")

COUNTS = {
    "maskrcnn_transnext_tiny": {(1e-4, 0.05): 374, (1e-4, 0.0): 283},
    "upernet_transnext_tiny": {(6e-5, 0.05): 375, (6e-5, 0.0): 283},
    "dino_4scale_transnext_tiny": {
        (1e-4, 0.05): 123, (1e-5, 0.05): 184, (1e-5, 0.0): 425, (1e-4, 0.0): 192,
    },
    "mask2former_transnext_tiny": {
        (1e-4, 0.05): 102, (1e-5, 0.05): 184, (1e-5, 0.0): 425, (1e-4, 0.0): 196,
    },
}  # fmt: skip
"""Tensors by rate and decay, counted in the optimisers that the published configurations build."""


@functools.cache
def shape_of(name: str) -> torch.nn.Module:
    """A model without memory."""
    with torch.device("meta"):
        return create_model(name)


def groups_of(name: str, **changes: float) -> dict[str, tuple[float, float]]:
    """Rate and decay of every parameter."""
    model = shape_of(name)
    recipe = replace(published(find_dense_model(name)), **changes)  # type: ignore[arg-type]
    found = {}
    for group in parameter_groups(model, recipe):
        rate = round(recipe.lr * group["lr_scale"], 12)
        found.update(dict.fromkeys(group["names"], (rate, group["weight_decay"])))
    assert found.keys() == dict(model.named_parameters()).keys()
    return found


@pytest.mark.parametrize("name", COUNTS)
def test_groups_are_the_published_ones_by_count(name: str) -> None:
    found = list(groups_of(name).values())
    assert {key: found.count(key) for key in set(found)} == COUNTS[name]


@pytest.mark.parametrize("name", ["maskrcnn_transnext_tiny", "upernet_transnext_tiny"])
def test_biases_decay_where_only_names_are_listed(name: str) -> None:
    parts = ("query_embedding", "relative_pos_bias_local", "cpb", "temperature", "norm")
    for parameter, (_, decay) in groups_of(name).items():
        assert (decay == 0) == any(part in parameter for part in parts), parameter


@pytest.mark.parametrize("slip", [True, False])
def test_the_backbone_s_last_stage_slips(slip: bool) -> None:
    for name, (rate, decay) in groups_of("dino_4scale_transnext_tiny", published_slip=slip).items():
        slips = name.startswith(("backbone.patch_embed4.", "backbone.norm4."))
        of_backbone = name.startswith("backbone.") and not (slip and slips)
        assert rate == (1e-5 if of_backbone else 1e-4), name
        if name.endswith(("learnable_tokens", "learnable_bias", "level_embed")):
            assert decay == 0.05
        if name in ("query_embedding.weight", "dn_query_generator.label_embedding.weight"):
            assert decay == 0.05
        if name.endswith((".bias", "in_proj_bias", "temperature")) or ".norm" in name:
            assert decay == 0, name


def test_mask2former_spares_its_queries_and_level_embeddings() -> None:
    found = groups_of("mask2former_transnext_tiny")
    for name in ("query_embed.weight", "query_feat.weight", "level_embed.weight"):
        assert found[f"decode_head.{name}"] == (1e-4, 0.0)
    assert found["decode_head.pixel_decoder.level_encoding.weight"] == (1e-4, 0.05)


@pytest.mark.parametrize("name", [*COUNTS, "mask2former_transnext_tiny"])
def test_layers_of_classes_learn_faster_from_weights_for_others(name: str) -> None:
    model = find_dense_model(name)
    factor = finetune(model).class_lr_factor
    assert factor > published(model).class_lr_factor == 1
    plain, faster = groups_of(name), groups_of(name, class_lr_factor=factor)
    for parameter, (rate, decay) in faster.items():
        of_classes = parameter.startswith(model.method.class_parameters)
        expected = plain[parameter][0] * (factor if of_classes else 1)
        assert rate == pytest.approx(expected, rel=1e-9), parameter
        assert decay == plain[parameter][1], parameter


def test_a_model_without_weights_has_one_rate_for_its_heads(tmp_path: Path) -> None:
    name = "upernet_transnext_pico"
    factors = {
        weights: DenseSettings.of(
            DenseOptions(data=tmp_path, output=tmp_path, weights=weights, model=name), name, 1
        ).recipe.class_lr_factor
        for weights in (None, name)
    }
    assert factors == {None: 1, name: finetune(find_dense_model(name)).class_lr_factor}


def test_a_short_run_warms_up_for_a_tenth_of_it() -> None:
    found = rates("upernet", 1000, 1)
    assert found.index(max(found)) == 100


@pytest.mark.parametrize("name", DENSE_MODELS)
def test_published_numbers(name: str) -> None:
    recipe = published(find_dense_model(name))
    assert (recipe.weight_decay, recipe.betas, recipe.eps) == (0.05, (0.9, 0.999), 1e-8)
    assert recipe.total_batch == 8 * recipe.batch_size * recipe.accumulate == 16
    assert recipe.ema_decay is None
    assert recipe.published_slip
    half = name == "maskrcnn_transnext_base"
    assert (recipe.precision, recipe.loss_scale) == (
        ("16-mixed", 512.0) if half else ("32-true", None)
    )
    assert recipe.clip_norm == {"dino": 0.1, "mask2former": 0.01}.get(recipe.method)
    assert recipe.accumulate == (2 if recipe.method == "dino" else 1)


def rates(method: str, steps: int, epochs: int) -> list[float]:
    recipe = PUBLISHED[method]
    return [recipe.lr * rate_factor(recipe, step, steps, epochs) for step in range(steps)]


def test_mask_rcnn_warms_up_and_steps_down() -> None:
    found = rates("maskrcnn", steps=12_000, epochs=12)
    assert found[0] == pytest.approx(1e-7)
    assert found[250] == pytest.approx(1e-4 * (1 - 0.5 * 0.999))
    assert found[500] == found[7999] == 1e-4
    assert found[8000] == pytest.approx(1e-5)
    assert found[11_000] == pytest.approx(1e-6)


def test_dino_steps_down_once() -> None:
    found = rates("dino", steps=1200, epochs=12)
    assert set(found[:1100]) == {1e-4}
    assert found[1100:] == pytest.approx([1e-5] * 100)


def test_upernet_is_linear_after_its_warm_up() -> None:
    found = rates("upernet", steps=160_000, epochs=10)
    assert found[0] == pytest.approx(6e-11)
    for step in (1500, 80_000, 159_999):
        assert found[step] == pytest.approx(6e-5 * (1 - step / 160_000), rel=1e-9)


def test_mask2former_s_polynomial_ends_at_zero() -> None:
    found = rates("mask2former", steps=16_000, epochs=32)
    assert found[0] == 1e-4
    # As MMEngine goes on from the rate before.
    rate = found[0]
    for step in range(1, 15_999):
        rate *= (1 - 1 / (15_999 - step + 1)) ** 0.9
        assert found[step] == pytest.approx(rate, rel=1e-6)
    assert found[-1] == 0


def test_another_length_keeps_the_schedule_s_shape() -> None:
    found = rates("maskrcnn", steps=600, epochs=3)
    assert max(found) == found[300] == 1e-4
    assert [round(rate, 12) for rate in found[400::200]] == [1e-5]


@pytest.mark.parametrize("name", METHODS)
def test_the_published_sides_give_the_published_pipelines(name: str) -> None:
    scale = (1333, 800) if name in ("maskrcnn", "dino") else (2048, 512)
    assert method_at(name, scale) == METHODS[name]
    assert method_at(name, (192, 144)) != METHODS[name]


def test_recipes_by_name() -> None:
    model = find_dense_model("dino_5scale_base")
    assert get_recipe("published", model).method == "dino"
    own = get_recipe("finetune", model)
    assert own == finetune(model)
    assert not own.published_slip
    assert own.clip_norm == 0.1
    known = "published, finetune, digit_scenes"
    with pytest.raises(ValueError, match=f"--recipe: got 'best', needs one of {known}"):
        get_recipe("best", model)


@pytest.mark.parametrize("name", DEMONSTRATORS)
def test_digits_are_never_mirrored(name: str) -> None:
    model = find_dense_model(name)
    recipe = get_recipe("digit_scenes", model)
    assert recipe == digit_scenes(model)
    assert not recipe.flips
    of_training = method_at(recipe.method, model.scale, recipe.jitter, flips=recipe.flips).training
    mirrored = method_at(recipe.method, model.scale, recipe.jitter).training
    assert of_training.steps == tuple(x for x in mirrored.steps if not isinstance(x, Flip))
    assert len(of_training.steps) == len(mirrored.steps) - 1


def test_factors_on_sides() -> None:
    resize = method_at("upernet", (192, 144), (0.8, 1.25)).training.steps[0]
    assert resize == ScaledResize((192, 144), (0.8, 1.25))
    assert method_at("maskrcnn", (192, 144)).training.steps[0] == Resize((192, 144))
