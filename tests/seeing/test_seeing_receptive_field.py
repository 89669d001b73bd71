"""Effective receptive fields: known ones, their symmetry, their numbers, and mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from seeing.test_seeing_record import build, picture
from transnext_models.seeing import (
    ReceptiveField,
    effective_receptive_field,
    effective_receptive_fields,
)
from transnext_models.seeing.receptive_field import fields_of_positions


class Convolutions(nn.Module):
    """Box filters in a row, of known receptive field."""

    def __init__(self, layers: int, stride: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(1 if layer else 3, 1, 3, stride if layer == 0 else 1, 1, bias=False)
            for layer in range(layers)
        )
        for layer in self.layers:
            nn.init.ones_(layer.weight)

    def forward_intermediates(self, x: Tensor, **_: Any) -> list[Tensor]:
        for layer in self.layers:
            x = layer(x)
        return [x]


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_the_field_of_convolutions_is_known(layers: int) -> None:
    field = effective_receptive_field(
        Convolutions(layers).eval(), [torch.ones(3, 21, 25), torch.ones(3, 21, 25)]
    )
    kernel = np.ones(1)
    for _ in range(layers):
        kernel = np.convolve(kernel, np.ones(3))
    expected = np.zeros((21, 25))
    expected[10 - layers : 11 + layers, 12 - layers : 13 + layers] = 3 * np.outer(kernel, kernel)
    np.testing.assert_array_equal(field.map.numpy(), expected)
    assert (field.images, field.skipped, field.grid) == (2, 0, (21, 25))
    assert (field.position, field.pixel) == ((10, 12), (10, 12))


def test_strides_move_the_pixel() -> None:
    field = effective_receptive_field(Convolutions(1, stride=4).eval(), [torch.ones(3, 24, 24)])
    assert (field.grid, field.position, field.pixel) == ((6, 6), (3, 3), (12, 12))
    assert torch.equal(torch.nonzero(field.map).float().mean(0), torch.tensor([12.0, 12.0]))


def test_a_symmetric_model_has_a_symmetric_field() -> None:
    """Sides of 4 n + 1 pixels have odd grids in every stage, centred on the middle pixel."""
    model = build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 4 and parameter.shape[-1] > 1:
                parameter.copy_(_symmetric(parameter))
            elif name.endswith(("relative_pos_bias_local", "learnable_tokens", "learnable_bias")):
                cells = parameter.unflatten(-1, (3, 3))
                parameter.copy_(_symmetric(cells).flatten(-2))
            elif "cpb_fc2.weight" in name:
                parameter.zero_()  # the coordinates' signs would tell the sides apart
    for stage, side in ((1, 17), (2, 9), (3, 5), (4, 3)):
        field = effective_receptive_field(model, [torch.full((3, 65, 65), 0.5)], stage)
        assert (field.grid, field.pixel) == ((side, side), (32, 32))
        for mirrored in (field.map.flip(0), field.map.flip(1), field.map.flip(0, 1)):
            torch.testing.assert_close(mirrored, field.map, rtol=1e-3, atol=1e-5 * field.largest)


def _symmetric(kernel: Tensor) -> Tensor:
    kernel = (kernel + kernel.flip(-1)) / 2
    return (kernel + kernel.flip(-2)) / 2


def test_the_mean_is_over_images_and_broken_ones_are_skipped() -> None:
    model = build()
    images = [picture((64, 64)), picture((64, 64)).flip(-1)]
    single = [effective_receptive_field(model, [image], 2).map for image in images]
    done: list[int] = []
    broken = torch.full((3, 64, 64), torch.nan)
    field = effective_receptive_field(
        model, [images[0], broken, images[1]], 2, progress=done.append
    )
    torch.testing.assert_close(field.map, (single[0] + single[1]) / 2)
    assert (field.images, field.skipped, done) == (2, 1, [1, 2, 3])


def test_several_stages_are_what_each_is_alone() -> None:
    model, image = build(), picture((64, 96))
    stages = (4, 1, 4, 2)
    together = effective_receptive_fields(model, iter([image, image]), stages)
    for stage, field in zip(stages, together, strict=True):
        alone = effective_receptive_field(model, [image, image], stage)
        torch.testing.assert_close(field.map, alone.map)
        assert (field.grid, field.pixel, field.images) == (alone.grid, alone.pixel, 2)


def test_several_positions_are_what_each_is_alone() -> None:
    model, image = build(), picture((64, 96))
    positions = [(0, 0), (3, 5), (1, 2)]
    for position, field in zip(
        positions, fields_of_positions(model, image, 3, positions), strict=True
    ):
        alone = effective_receptive_field(model, [image], 3, position)
        torch.testing.assert_close(field.map, alone.map)
        assert (field.position, field.pixel) == (position, alone.pixel)


def test_parameters_get_no_gradient_and_frozen_models_work() -> None:
    model = build().freeze()
    effective_receptive_field(model, [picture((64, 64))])
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "pixel"), [("convnext_atto", 111), ("resnet18", 96), ("pvt_v2_b0", 96)]
)
def test_models_of_timm(name: str, pixel: int) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    stage = len(model.feature_info)
    field = effective_receptive_field(model, [Image.fromarray(pixels)], stage)
    assert field.map.shape == (224, 224)
    assert (field.grid, field.pixel) == ((7, 7), (pixel, pixel))
    assert field.total > 0


# -- numbers --------------------------------------------------------------------------------------


def field_of(values: Tensor, pixel: tuple[int, int]) -> ReceptiveField:
    return ReceptiveField(values.double(), 1, 0, (0, 0), pixel, (1, 1))


def test_area_ratios_of_a_known_square() -> None:
    values = torch.zeros(20, 20)
    values[6:11, 6:11] = 1.0  # 5 x 5 about (8, 8)
    ratios = field_of(values, (8, 8)).area_ratios((0.0, 0.03, 0.3, 0.36, 0.99))
    assert [ratio.linear * 400 for ratio in ratios] == pytest.approx([1, 1, 9, 25, 25])
    # About the middle, (10, 10), squares of sides 1, 3, 5, 7, 9 hold 1, 4, 9, 16 and 25 pixels.
    assert [ratio.published * 400 for ratio in ratios] == pytest.approx([1, 1, 25, 49, 81])


def test_area_ratios_count_what_is_brute_force_counted() -> None:
    values = torch.rand(15, 22, generator=torch.Generator().manual_seed(1))
    for ratio in field_of(values, (3, 17)).area_ratios():
        for half in range(30):
            part = values[max(3 - half, 0) : 4 + half, max(17 - half, 0) : 18 + half]
            if part.double().sum() > ratio.threshold * values.double().sum():
                break
        assert ratio.linear == min(1.0, (2 * half + 1) ** 2 / values.numel())


def test_radial_profile_of_a_ring() -> None:
    values = torch.zeros(21, 21)
    values[10, 10] = 1
    values[10, 15] = values[5, 10] = 1.5
    profile = field_of(values, (10, 10)).radial_profile()
    assert profile[[0, 1, 4, 5, -1]].tolist() == [0.25, 0.25, 0.25, 1.0, 1.0]


def test_grid_energy_tells_blocks_from_smooth_fields() -> None:
    rows = torch.arange(224, dtype=torch.float64)
    smooth = torch.exp(-((rows - 112) ** 2) / (2 * 40**2))
    smooth = smooth[:, None] * smooth
    comb = (torch.arange(224) % 16 < 8).double()
    blocks = comb[:, None] * comb
    assert field_of(smooth, (112, 112)).grid_energy(16) < 1e-6
    assert field_of(blocks, (112, 112)).grid_energy(16) > 0.99
    mixed = field_of(smooth * (1 + 0.5 * blocks), (112, 112))
    assert 0.01 < mixed.grid_energy(16) < 0.9
    assert mixed.grid_energy(16) > 10 * mixed.grid_energy(11)


def test_scales_run_from_0_to_1() -> None:
    field = field_of(torch.rand(9, 9), (4, 4))
    for scale in ("log", "linear", "relative"):
        drawn = field.scaled(scale)
        assert drawn.min() >= 0
        assert drawn.max() == 1
    assert torch.equal(
        field_of(torch.zeros(3, 3), (1, 1)).scaled("log"), torch.zeros(3, 3).double()
    )
    expected = torch.log10(field.map + 1)
    torch.testing.assert_close(field.scaled("log"), expected / expected.max())


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stage": 5}, "stage: got 5, needs 1 to 4"),
        ({"position": (9, 0)}, r"position: got \(9, 0\), needs .* 2 x 2"),
        ({"images": []}, "images: got 0 that can be used for nothing, needs one or more"),
        (
            {"images": [picture((64, 64)), picture((64, 32))]},
            r"images: got \(64, 32\), needs \(64, 64\)",
        ),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        effective_receptive_field(**{"model": build(), "images": [picture((64, 64))], **arguments})


def test_models_and_scales_that_do_not_fit() -> None:
    with pytest.raises(TypeError, match="model: got Linear, needs one with forward_intermediates"):
        effective_receptive_field(nn.Linear(2, 2), [])
    with pytest.raises(ValueError, match="training mode"):
        effective_receptive_field(build().train(), [])
    with pytest.raises(ValueError, match="scale: got 'x', needs 'log'"):
        field_of(torch.ones(3, 3), (1, 1)).scaled("x")
    with pytest.raises(ValueError, match="period: got 1, needs more than 1"):
        field_of(torch.ones(3, 3), (1, 1)).grid_energy(1)
    with pytest.raises(ValueError, match=r"thresholds: got 1\.0"):
        field_of(torch.ones(3, 3), (1, 1)).area_ratios([1.0])
