"""Figures show what they say: colours at known places, and mistakes by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from seeing.test_seeing_record import build, picture
from transnext_models import create_model
from transnext_models.classification.preprocess import Preprocess
from transnext_models.seeing import (
    AttentionRecord,
    ReceptiveField,
    figure_erf,
    figure_foveal,
    figure_query,
    foveal_picture,
    record_attention,
)
from transnext_models.seeing.geometry import bin_spans, pixel_of, spread, token_at, token_spans
from transnext_models.seeing.vision import window_box


@pytest.fixture(scope="module")
def record() -> AttentionRecord:
    return record_attention(build(), picture((64, 96)))


# -- geometry -------------------------------------------------------------------------------------


def test_tokens_are_centred_on_multiples_of_the_stride() -> None:
    assert token_spans(3, 8).tolist() == [[-4, 4], [4, 12], [12, 20]]
    assert pixel_of((2, 5), 8) == (16, 40)
    assert token_at((11.9, 100), 8, (4, 6)) == (1, 5)
    for stage, stride in enumerate((4, 8, 16, 32), start=1):
        record = record_attention(build(), picture((64, 96)))
        assert record.position(stage, (1.2 * stride, 2.8 * stride))[1] == min(3, 96 // stride - 1)


def test_bins_are_those_of_adaptive_pooling() -> None:
    for tokens, bins in ((7, 3), (8, 4), (5, 5), (9, 2)):
        spans = bin_spans(tokens, bins, 4)
        ones = torch.eye(tokens)[None]
        pooled = torch.nn.functional.adaptive_avg_pool1d(ones, bins)[0]  # [tokens, bins]
        for index in range(bins):
            members = torch.nonzero(pooled[:, index]).flatten()
            assert spans[index].tolist() == [members[0] * 4 - 2, members[-1] * 4 + 2]


@pytest.mark.parametrize("size", [64, 20, 200])
def test_spreading_keeps_the_sum(size: int) -> None:
    matrix = spread(bin_spans(16, 3, 4), 64, size)
    assert matrix.shape == (size, 3)
    torch.testing.assert_close(matrix.sum(0), torch.ones(3, dtype=torch.float64))
    assert matrix.min() >= 0


# -- one query ------------------------------------------------------------------------------------


def test_density_is_the_weights_on_their_pixels(record: AttentionRecord) -> None:
    query = record.query(1, 0, (5, 20))
    density = query.densities()
    cell = density[:, 18:22, 78:82]  # token (5, 20) by itself
    expected = query.window[:, 1, 1] / 16
    for row, column in torch.nonzero(torch.ones(query.pool_grid)).tolist():
        row_span, column_span = bin_spans(16, 2, 4)[row], bin_spans(24, 3, 4)[column]
        if row_span[0] <= 18 < row_span[1] and column_span[0] <= 78 < column_span[1]:
            area = np.prod([
                float(span[1].clamp(max=side) - span[0].clamp(min=0))
                for span, side in ((row_span, 64), (column_span, 96))
            ])  # fmt: skip
            expected = expected + query.pooled[:, row, column] / area
    torch.testing.assert_close(cell, expected.double()[:, None, None].expand_as(cell))


@pytest.mark.parametrize("stage", [1, 4])
def test_numbers_per_head_are_brute_force_ones(record: AttentionRecord, stage: int) -> None:
    query = record.query(stage, -1, (0, 1))
    weights, distances = [], []
    for row, column in torch.nonzero(query.inside).tolist():
        weights.append(query.window[:, row, column])
        distances.append(np.hypot(row - 1, column - 1) * query.stride)
    middle = [bin_spans(query.grid[i], query.pool_grid[i], query.stride).mean(1) for i in range(2)]
    for row in range(query.pool_grid[0]):
        for column in range(query.pool_grid[1]):
            weights.append(query.pooled[:, row, column])
            y = float(middle[0][row] - query.pixel[0])
            x = float(middle[1][column] - query.pixel[1])
            distances.append(float(np.hypot(y, x)))
    table = torch.stack(weights, 1).double()
    torch.testing.assert_close(query.mean_distance(), table @ torch.tensor(distances).double())
    torch.testing.assert_close(query.entropy(), -(table * table.log()).sum(1))
    assert query.most() == pytest.approx(np.log(len(weights)))
    cells = int(query.inside.sum())
    torch.testing.assert_close(query.foveal_share(), table[:, :cells].sum(1))


# -- pictures -------------------------------------------------------------------------------------


def test_the_window_is_sharp_and_the_rest_is_not(record: AttentionRecord) -> None:
    query = record.query(2, -1, (4, 5))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))
    seen = np.asarray(foveal_picture(query, noise))
    left, top, right, bottom = box = window_box(query)  # type: ignore[misc]
    assert box == (28, 20, 52, 44)
    inside = np.asarray(noise)[top:bottom, left:right]
    assert np.array_equal(seen[top:bottom, left:right], inside)
    rest = seen.astype(float)
    rest[top:bottom, left:right] = np.nan
    assert np.nanstd(rest) < 0.5 * inside.std()


def test_the_picture_is_what_the_model_got() -> None:
    model = create_model("transnext_pico").eval()
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    preprocess = Preprocess(64, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), "squash", 1.0)
    record = record_attention(model, Image.fromarray(pixels), preprocess)
    assert np.array_equal(np.asarray(record.picture()), pixels)


def test_foveal_and_peripheral_follow_their_formulas(record: AttentionRecord) -> None:
    block = record.recorded(3, 1)
    foveal, peripheral = record.foveal(3, 1, (1, 2)), record.peripheral(3, 1, (1, 2))
    index = 1 * block.info.grid[1] + 2
    assert block.keys is not None
    logits = (block.queries[index][None] * block.keys).sum(-1)
    torch.testing.assert_close(foveal.flatten(1), logits.softmax(0).T)
    logits = (block.queries[index][None] * block.pooled_keys).sum(-1).T + block.bias.dense()[
        :, index
    ]
    torch.testing.assert_close(peripheral.flatten(1), logits.softmax(1))


def test_figures_are_drawn(record: AttentionRecord) -> None:
    for stage in (1, 4):
        drawn = figure_query(record, stage, pixel=(10, 80), head=0)
        assert drawn.size[0] > drawn.size[1] > 400
    drawn = figure_foveal(record, heads=[0, 2])
    colours = {tuple(colour) for colour in np.asarray(drawn).reshape(-1, 3)}
    assert (68, 1, 84) in colours  # viridis at 0
    assert (253, 231, 36) in colours  # and at 1


def test_receptive_fields_have_the_paper_s_colours() -> None:
    values = torch.zeros(32, 32, dtype=torch.float64)
    values[8:16, 8:16] = 1
    field = ReceptiveField(values, 1, 0, (0, 0), (12, 12), (1, 1))
    colours = {
        tuple(colour)
        for colour in np.asarray(figure_erf([field, field], ["a", "b"])).reshape(-1, 3)
    }
    assert (254, 254, 189) in colours or (254, 254, 190) in colours or (255, 255, 190) in colours
    assert (0, 104, 55) in colours


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda record: figure_query(record, head=3), "head: got 3, needs 0 to 2"),
        (
            lambda record: figure_foveal(record, heads=[7]),
            r"heads: got \[7\], needs numbers from 0 to 2",
        ),
        (lambda _: figure_erf([], []), "names: got 0, needs one for each of 0 fields"),
    ],
)
def test_mistakes_are_named(record: AttentionRecord, call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(record)


def test_sizes_are_drawn_from_a_table_of_results(tmp_path: Path) -> None:
    from transnext_models.seeing import figure_sizes

    with pytest.raises(ValueError, match="has no rows of one model at several sizes"):
        figure_sizes(tmp_path / "none.csv")
