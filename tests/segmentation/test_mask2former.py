"""Mask2Former's rules against plain loops: masked attention, matching, losses, scores."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from segmentation_models import CHANNELS, small_segmentor
from transnext_models.dense.transformer_layers import Attention
from transnext_models.segmentation import total_loss
from transnext_models.segmentation.mask_decoder import QueryPrediction, attention_mask
from transnext_models.segmentation.mask_losses import (
    Segments,
    mask_losses,
    matching_cost,
    segments_of,
)


def test_queries_look_inside_their_masks_and_everywhere_without_one() -> None:
    """Over cells of 2 x 2 pixels the mean of the logits decides."""
    masks = torch.tensor(
        [
            [[4.0, 4, -1, -1], [4, 4, -1, -1]],
            [[-1.0, -1, -1, -1], [-1, -1, -1, -1]],  # nothing
            [[1.0, 1, 1, 1], [1, 1, 1, 1]],
            [[1.0, -1, 2, -1], [-1, 1, -1, -1]],  # zero counts as inside, below as outside
        ]
    )[None]
    forbidden = attention_mask(masks, (1, 2))
    expected = [[False, True], [False, False], [False, False], [False, True]]
    assert forbidden[0].tolist() == expected


def test_masked_attention_is_the_formula() -> None:
    torch.manual_seed(0)
    heads, width = 2, 4
    layer = Attention(width, heads).double().eval()
    query, key = torch.randn(1, 3, width).double(), torch.randn(1, 5, width).double()
    query_position, key_position = (
        torch.randn(1, 3, width).double(),
        torch.randn(1, 5, width).double(),
    )
    mask = torch.rand(1, 3, 5) < 0.4

    actual = layer(
        query,
        key,
        key,
        query_position=query_position,
        key_position=key_position,
        mask=mask.repeat_interleave(heads, 0),
    )

    weights, biases = (x.chunk(3) for x in (layer.attn.in_proj_weight, layer.attn.in_proj_bias))
    inputs = (query + query_position, key + key_position, key)  # positions are not in the values
    q, k, v = (
        (x @ w.T + b).unflatten(-1, (heads, -1)).transpose(1, 2)
        for x, w, b in zip(inputs, weights, biases, strict=True)
    )
    logits = q @ k.transpose(-1, -2) / math.sqrt(width // heads)
    logits = logits.masked_fill(mask[:, None], -math.inf)
    attended = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(actual, query + layer.attn.out_proj(attended))


def test_layers_read_the_levels_in_turn_through_the_last_masks() -> None:
    model = small_segmentor("mask2former")
    head = model.decode_head
    seen = []
    for layer in head.transformer_decoder.layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    predictions = head(model.backbone(torch.randn(1, 3, 64, 96).double()))
    assert len(predictions) == 10
    sides = [(2, 3), (4, 6), (8, 12)]  # strides 32, 16, 8
    for i, (_, position, memory, key_position, mask) in enumerate(seen):
        rows, columns = sides[i % 3]
        assert memory.shape == key_position.shape == (1, rows * columns, CHANNELS)
        assert position.shape == (1, 7, CHANNELS)
        expected = attention_mask(predictions[i].masks, (rows, columns))
        assert torch.equal(mask, expected.repeat_interleave(8, 0))
    # The level's embedding is in the memory, so in keys and values.
    maps = model.backbone(
        torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)).double()
    )
    first = head.pixel_decoder(maps)[1][0].flatten(2).transpose(1, 2)
    seen.clear()
    head(maps)
    torch.testing.assert_close(seen[0][2], first + head.level_embed.weight[0])


def cost_by_hand(classes, masks, targets, truth) -> torch.Tensor:
    cost = torch.zeros(len(classes), len(targets), dtype=torch.float64)
    for n, g in itertools.product(range(len(classes)), range(len(targets))):
        p = masks[n].sigmoid()
        y = truth[g]
        entropy = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
        dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
        cost[n, g] = -2 * classes[n].softmax(0)[targets[g]] + 5 * entropy + 5 * dice
    return cost


def test_matching_cost_is_the_formula() -> None:
    torch.manual_seed(0)
    classes, masks = torch.randn(4, 6).double(), torch.randn(4, 9).double()
    targets, truth = torch.tensor([3, 0]), torch.rand(2, 9).round().double()
    torch.testing.assert_close(
        matching_cost(classes, masks, targets, truth), cost_by_hand(classes, masks, targets, truth)
    )


def constant_case() -> tuple[QueryPrediction, list[Segments]]:
    """Masks that are the same everywhere, so that losses do not depend on the points."""
    classes = torch.tensor(
        [[[2.0, 0, 0], [0, 1, 0], [0, 0, 3]], [[0.0, 1, 0], [1, 0, 0], [0, 0, 0]]]
    )
    values = torch.tensor([[1.5, -2.0, 0.5], [0.3, -1.0, 2.0]])
    masks = values[..., None, None].expand(-1, -1, 8, 8).clone()
    everywhere, nowhere = torch.ones(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)
    segments = [
        Segments(torch.tensor([0, 1]), torch.stack([everywhere, nowhere])),
        Segments(torch.tensor([1]), everywhere[None]),
    ]
    return QueryPrediction(classes.double(), masks.double()), segments


def pad_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw points away from the edges, where samples fade to zero."""
    rand = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *size, **options: 0.25 + 0.5 * rand(*size, **options))


def test_losses_are_those_computed_by_hand(monkeypatch) -> None:
    pad_outside(monkeypatch)
    prediction, segments = constant_case()
    points = 100

    losses = mask_losses(prediction, segments, points)

    cross_entropy = weight = entropy = dice = 0.0
    for classes, masks, (targets, truth) in zip(*prediction, segments, strict=True):
        logits = masks[:, 0, 0, None].expand(-1, points)
        flat = truth[:, 0, 0, None].double().expand(-1, points)
        cost = cost_by_hand(classes, logits, targets, flat)
        best = min(
            itertools.permutations(range(3), len(targets)),
            key=lambda queries: sum(cost[n, g] for g, n in enumerate(queries)),
        )
        wanted = dict(zip(best, targets.tolist(), strict=True))
        for query in range(3):
            wanted_class = wanted.get(query, 2)
            factor = 0.1 if wanted_class == 2 else 1.0
            cross_entropy -= factor * classes[query].log_softmax(0)[wanted_class]
            weight += factor
        for g, query in enumerate(best):
            p, y = float(logits[query, 0].sigmoid()), float(flat[g, 0])
            entropy -= y * math.log(p) + (1 - y) * math.log(1 - p)
            dice += 1 - (2 * p * y * points + 1) / (p * points + y * points + 1)
    assert float(losses["loss_cls"]) == pytest.approx(float(2 * cross_entropy / weight))
    assert float(losses["loss_mask"]) == pytest.approx(5 * entropy / 3)
    assert float(losses["loss_dice"]) == pytest.approx(5 * dice / 3)


def test_images_without_a_segment_count_as_one_and_get_a_gradient(monkeypatch) -> None:
    pad_outside(monkeypatch)
    prediction, segments = constant_case()
    nothing = Segments(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 8, 8, dtype=torch.bool))
    halves = mask_losses(prediction, [segments[0], nothing], 100)
    alone = mask_losses(QueryPrediction(*(x[:1] for x in prediction)), segments[:1], 100)
    for name in ("loss_mask", "loss_dice"):
        assert float(halves[name]) == pytest.approx(float(alone[name]) * 2 / 3)

    masks = prediction.masks.requires_grad_()
    losses = mask_losses(QueryPrediction(prediction.classes, masks), [nothing, nothing], 100)
    assert losses["loss_mask"].item() == losses["loss_dice"].item() == 0
    total_loss(losses).backward()
    assert masks.grad is not None
    assert not masks.grad.any()


def test_segments_are_the_classes_present() -> None:
    labels = torch.tensor([[3, 3, 255], [0, 3, 255]])
    classes, masks = segments_of(labels)
    assert classes.tolist() == [0, 3]
    assert masks.tolist() == [
        [[False, False, False], [True, False, False]],
        [[True, True, False], [False, True, False]],
    ]
    classes, masks = segments_of(torch.full((2, 3), 255))
    assert classes.shape == (0,)
    assert masks.shape == (0, 2, 3)


@torch.no_grad()
def test_scores_are_classes_times_masks() -> None:
    model = small_segmentor("mask2former")
    images = torch.randn(2, 3, 64, 96).double()
    classes, masks = model.forward_queries(images)
    assert masks.shape == (2, 7, 16, 24)
    resized = nn.functional.interpolate(masks, (64, 96), mode="bilinear").sigmoid()
    shares = classes.softmax(-1)
    for label in range(5):
        expected = sum(shares[:, n, label, None, None] * resized[:, n] for n in range(7))
        torch.testing.assert_close(model(images)[:, label], expected)


def test_losses_of_all_predictions_by_the_published_names() -> None:
    model = small_segmentor("mask2former")
    labels = torch.randint(0, 5, (2, 64, 64))
    labels[1] = 255
    torch.manual_seed(0)
    losses = model.loss(torch.randn(2, 3, 64, 64).double(), labels)
    prefixes = ["", *(f"d{i}." for i in range(9))]
    kinds = ("cls", "mask", "dice")
    assert set(losses) == {f"decode.{p}loss_{k}" for p in prefixes for k in kinds}
    total_loss(losses).backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in model.parameters())
