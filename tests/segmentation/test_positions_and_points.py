"""Sine positions, sampled points and the Hungarian assignment against plain loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from transnext_models.dense.hungarian import assign
from transnext_models.dense.point_sampling import sample_points, uncertain_points
from transnext_models.dense.sine_positions import sine_of_boxes, sine_of_map


def waves_by_hand(angle: float, channels: int, temperature: float) -> list[float]:
    values = []
    for pair in range(channels // 2):
        phase = angle / temperature ** (2 * pair / channels)
        values += [math.sin(phase), math.cos(phase)]
    return values


@pytest.mark.parametrize("temperature", [20.0, 10000.0], ids=["DINO", "Mask2Former"])
def test_positions_of_a_map_with_padding(temperature: float) -> None:
    padding = torch.zeros(2, 4, 5, dtype=torch.bool)
    padding[1, 3:] = padding[1, :, 2:] = True

    positions = sine_of_map(padding, 6, temperature=temperature)

    assert positions.shape == (2, 12, 4, 5)
    for image, rows, columns in ((0, 4, 5), (1, 3, 2)):
        for row, column in itertools.product(range(rows), range(columns)):
            y = 2 * math.pi * (row + 1) / (rows + 1e-6)
            x = 2 * math.pi * (column + 1) / (columns + 1e-6)
            expected = waves_by_hand(y, 6, temperature) + waves_by_hand(x, 6, temperature)
            torch.testing.assert_close(
                positions[image, :, row, column], torch.tensor(expected), atol=1e-5, rtol=0
            )


@pytest.mark.parametrize("numbers", [2, 4])
def test_positions_of_boxes(numbers: int) -> None:
    torch.manual_seed(0)
    boxes = torch.rand(3, numbers, dtype=torch.float64)
    order = (1, 0, 2, 3)[:numbers]

    positions = sine_of_boxes(boxes, 8)

    for box, actual in zip(boxes.tolist(), positions, strict=True):
        expected = [wave for i in order for wave in waves_by_hand(2 * math.pi * box[i], 8, 1e4)]
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_positions_are_float32_at_least() -> None:
    assert sine_of_boxes(torch.rand(2, 4).half(), 8).dtype == torch.float32
    with pytest.raises(ValueError, match="channels: got 5, needs an even number"):
        sine_of_boxes(torch.rand(2, 4), 5)


def test_points_are_bilinear_between_centres() -> None:
    masks = torch.tensor([[[0.0, 1.0], [2.0, 3.0]], [[5.0, 5.0], [5.0, 5.0]]])
    points = torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.5, 0.5], [0.0, 0.5]])
    # At the left edge half of the sample lies outside the mask, which is zero.
    expected = torch.tensor([[0.0, 1.0, 1.5, 0.5], [5.0, 5.0, 5.0, 2.5]])
    torch.testing.assert_close(sample_points(masks, points[None]), expected)
    torch.testing.assert_close(sample_points(masks, points.expand(2, -1, -1)), expected)
    assert sample_points(masks[:0], points[None]).shape == (0, 4)


def test_points_lie_where_the_mask_is_uncertain() -> None:
    """The mask is sure but for a stripe of a tenth of its width."""
    torch.manual_seed(0)
    x = (torch.arange(200) + 0.5) / 200
    logits = ((x - 0.5).abs() * 100).expand(2, 200, 200)

    points = uncertain_points(logits, 400)

    assert points.shape == (2, 400, 2)
    assert points.min() >= 0
    assert points.max() < 1
    # 1200 candidates have 300 within 0.125 of the middle, and those are kept.
    # (At the mask's edges, where samples fade to zero, farther ones count as uncertain too.)
    near = (points[..., 0] - 0.5).abs() < 0.3
    assert near[:, :300].all()
    assert 0.45 < near[:, 300:].float().mean() < 0.75  # the others are uniform
    assert uncertain_points(logits[:0], 400).shape == (0, 400, 2)


def test_points_use_the_given_ratios() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 8, 8)
    assert uncertain_points(logits, 10, oversampling=1.0, importance=1.0).shape == (3, 10, 2)
    torch.manual_seed(1)
    uniform = uncertain_points(logits, 10, importance=0.0)
    torch.manual_seed(1)
    torch.rand(3, 30, 2)
    torch.testing.assert_close(uniform, torch.rand(3, 10, 2))


def test_assignment_has_the_least_cost() -> None:
    torch.manual_seed(0)
    cost = torch.randn(5, 3)
    rows, columns = assign(cost)
    best = min(
        itertools.permutations(range(5), 3),
        key=lambda rows: sum(cost[r, c] for c, r in enumerate(rows)),
    )
    assert dict(zip(columns.tolist(), rows.tolist(), strict=True)) == dict(enumerate(best))
    assert rows.tolist() == sorted(rows.tolist())


def test_assignment_of_nothing_and_of_what_is_not_finite() -> None:
    rows, columns = assign(torch.zeros(4, 0))
    assert rows.shape == columns.shape == (0,)
    cost = torch.tensor([[math.nan, math.inf], [1.0, 2.0], [3.0, 1.0]])
    rows, columns = assign(cost)
    assert rows.tolist() == [1, 2]
    assert columns.tolist() == [0, 1]
