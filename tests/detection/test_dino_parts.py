"""DINO's parts against plain formulas: levels, proposals, denoising queries, costs, losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.ops import box_convert, generalized_box_iou

from detection_models import small_dino
from small_model import small_model
from transnext_models.detection import DINO, Annotated
from transnext_models.detection.dino.decoder import logit
from transnext_models.detection.dino.denoising import DenoisingQueries, unit_boxes
from transnext_models.detection.dino.levels import Levels, flatten_levels
from transnext_models.detection.dino.losses import (
    Prediction,
    denoising_losses,
    matching_cost,
    matching_losses,
)


def annotated(size: tuple[int, int], boxes: list[list[float]], labels: list[int]) -> Annotated:
    return Annotated(
        size, torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64)
    )


TARGETS = [
    annotated((64, 96), [[8, 8, 40, 56], [48, 16, 88, 40]], [3, 1]),
    annotated((48, 80), [[10, 12, 30, 36]], [4]),
]


# -- levels ---------------------------------------------------------------------------------------


@pytest.fixture
def levels() -> Levels:
    """An image of the batch's size and one of 48 x 80 in 64 x 96."""
    maps = [torch.randn(2, 8, 64 // stride, 96 // stride) for stride in (8, 16, 32)]
    sizes = [(64, 96), (48, 80)]
    return flatten_levels(maps, sizes, (64, 96), torch.randn(3, 8))


def test_padding_and_valid_parts(levels: Levels) -> None:
    assert levels.shapes == [(8, 12), (4, 6), (2, 3)]
    assert levels.padding is not None
    first = levels.padding[1, :96].reshape(8, 12)
    assert not first[:6, :10].any()
    assert first[6:].all()
    assert first[:, 10:].all()
    assert not levels.padding[0].any()
    expected = [[10 / 12, 6 / 8], [5 / 6, 3 / 4], [1.0, 1.0]]  # 48 of 64 rows reach the second
    torch.testing.assert_close(levels.valid[1], torch.tensor(expected), atol=0.35, rtol=0)
    torch.testing.assert_close(levels.valid[1, :2], torch.tensor(expected[:2]))


def test_images_of_one_size_have_no_padding() -> None:
    maps = [torch.randn(2, 8, 4, 6)]
    assert flatten_levels(maps, [(32, 48)] * 2, (32, 48), torch.zeros(1, 8)).padding is None


def test_centres_lie_in_cells_of_every_level(levels: Levels) -> None:
    centres = levels.centres()
    assert centres.shape == (2, 8 * 12 + 4 * 6 + 2 * 3, 3, 2)
    row, column = 2, 7  # of the first level, in the whole image
    expected = torch.tensor([(column + 0.5) / 12, (row + 0.5) / 8])
    torch.testing.assert_close(centres[0, row * 12 + column], expected.expand(3, 2))
    # In the padded image the same share of the valid part, on each level.
    share = torch.tensor([(column + 0.5) / 10, (row + 0.5) / 6])
    torch.testing.assert_close(centres[1, row * 12 + column], share * levels.valid[1])


def test_proposals_are_boxes_of_twice_the_side_on_each_level(levels: Levels) -> None:
    logits, counts = levels.proposals()
    boxes = logits.sigmoid()
    start = 0
    for level, (rows, columns) in enumerate(levels.shapes):
        for row in range(rows):
            for column in range(columns):
                cell = start + row * columns + column
                box = [(column + 0.5) / columns, (row + 0.5) / rows, *[0.05 * 2**level] * 2]
                assert bool(counts[0, cell]) == all(0.01 < value < 0.99 for value in box)
                if counts[0, cell]:
                    torch.testing.assert_close(boxes[0, cell], torch.tensor(box))
        start += rows * columns
    assert levels.padding is not None
    assert not (counts & levels.padding).any()
    assert logits[~counts].isinf().all()


def test_logit_is_clipped() -> None:
    x = torch.tensor([-1.0, 0.0, 0.2, 1.0, 2.0])
    expected = [math.log(1e-3), math.log(1e-3), math.log(0.25), -math.log(1e-3), -math.log(1e-3)]
    torch.testing.assert_close(logit(x, 1e-3), torch.tensor(expected), rtol=1e-5, atol=1e-5)


# -- denoising ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("objects", "groups"), [(0, 1), (1, 100), (3, 33), (100, 1), (130, 1)])
def test_groups_hold_about_a_hundred_positives(objects: int, groups: int) -> None:
    boxes = [[1.0, 1.0, 9.0, 9.0]] * objects
    noised = DenoisingQueries(5, 16)([annotated((32, 32), boxes, [0] * objects)])
    assert (noised.groups, noised.most) == (groups, objects)
    assert noised.queries.shape == (1, 2 * groups * objects, 16)


def test_noise_stays_within_its_bounds() -> None:
    """Edges of a positive move by up to half a side, those of a negative by half to a whole one."""
    torch.manual_seed(0)
    box = unit_boxes(annotated((100, 100), [[40, 40, 60, 56]], [2])).expand(2000, 4)
    negative = torch.arange(2000) >= 1000
    noised = DenoisingQueries(5, 16)._noised_boxes(box, negative)
    edges = box_convert(noised, "cxcywh", "xyxy")
    moved = (edges - box).abs() / (torch.tensor([0.2, 0.16, 0.2, 0.16]) / 2)
    assert moved[:1000].max() <= 1 + 1e-5
    assert moved[1000:].min() >= 1 - 1e-5
    assert moved[1000:].max() <= 2 + 1e-5
    assert float(moved[:1000].mean()) == pytest.approx(0.5, abs=0.03)
    assert float(moved[1000:].mean()) == pytest.approx(1.5, abs=0.03)


def test_a_quarter_of_the_labels_is_redrawn() -> None:
    torch.manual_seed(0)
    makes = DenoisingQueries(1000, 4)
    noised = makes([annotated((32, 32), [[1, 1, 9, 9]] * 100, [7] * 100)] * 20)
    kept = (noised.queries == makes.label_embedding.weight[7]).all(-1).float().mean()
    assert kept == pytest.approx(0.75, abs=0.03)


def test_groups_do_not_see_each_other_and_queries_see_none() -> None:
    noised = DenoisingQueries(5, 16, queries=6)(TARGETS)
    assert (noised.groups, noised.most, noised.size) == (3, 2, 12)
    mask = noised.mask(4)
    group = [i // 4 for i in range(12)] + [None] * 4
    for i, own in enumerate(group):
        for j, other in enumerate(group):
            assert bool(mask[i, j]) == (other is not None and own != other)
    assert noised.positives(1).tolist() == [[0], [4], [8]]
    # The second image has one object: its other places are empty.
    assert (noised.queries[1, 1::2] == 0).all()


# -- costs and losses -----------------------------------------------------------------------------


def focal(x: float, wanted: bool) -> float:
    p = 1 / (1 + math.exp(-x))
    return -0.25 * (1 - p) ** 2 * math.log(p) if wanted else -0.75 * p**2 * math.log(1 - p)


def prediction(seed: int = 0, queries: int = 6) -> Prediction:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(2, queries, 4, generator=generator) * 0.4 + 0.2
    return Prediction(torch.randn(2, queries, 5, generator=generator), boxes)


def test_costs_by_hand() -> None:
    classes, boxes = prediction()
    target = TARGETS[0]
    cost = matching_cost(classes[0], boxes[0], target)
    wanted = unit_boxes(target)
    overlap = generalized_box_iou(box_convert(boxes[0], "cxcywh", "xyxy"), wanted)
    for query in range(6):
        for thing in range(2):
            x = float(classes[0, query, target.labels[thing]])
            distance = (boxes[0, query] - box_convert(wanted, "xyxy", "cxcywh")[thing]).abs().sum()
            expected = (
                2 * (focal(x, True) - focal(x, False)) + 5 * distance - 2 * overlap[query, thing]
            )
            assert float(cost[query, thing]) == pytest.approx(float(expected), rel=1e-5, abs=1e-6)


def test_losses_by_hand() -> None:
    """Over both images, divided by their three objects."""
    given = prediction()
    losses = matching_losses(given, TARGETS)
    expected = dict.fromkeys(("loss_cls", "loss_bbox", "loss_iou"), 0.0)
    for image, target in enumerate(TARGETS):
        cost = matching_cost(given.classes[image], given.boxes[image], target).numpy()
        pairs = best_pairs(cost)
        for query in range(6):
            for label in range(5):
                wanted = any(q == query and int(target.labels[t]) == label for q, t in pairs)
                expected["loss_cls"] += focal(float(given.classes[image, query, label]), wanted) / 3
        for query, thing in pairs:
            truth = unit_boxes(target)[thing]
            box = given.boxes[image, query]
            distance = (box - box_convert(truth, "xyxy", "cxcywh")).abs().sum()
            overlap = generalized_box_iou(box_convert(box[None], "cxcywh", "xyxy"), truth[None])
            expected["loss_bbox"] += 5 * float(distance) / 3
            expected["loss_iou"] += 2 * (1 - float(overlap)) / 3
    assert {name: float(value) for name, value in losses.items()} == pytest.approx(
        expected, rel=1e-4
    )


def best_pairs(cost: np.ndarray) -> list[tuple[int, int]]:
    """Return the cheapest assignment, by trying all."""
    queries, things = cost.shape
    if things == 1:
        return [(int(cost[:, 0].argmin()), 0)]
    pairs = [(a, b) for a in range(queries) for b in range(queries) if a != b]
    first, second = min(pairs, key=lambda pair: cost[pair[0], 0] + cost[pair[1], 1])
    return [(first, 0), (second, 1)]


def test_perfect_predictions_cost_little() -> None:
    classes = torch.full((2, 3, 5), -20.0)
    boxes = torch.full((2, 3, 4), 0.5)
    for image, target in enumerate(TARGETS):
        for thing, label in enumerate(target.labels):
            classes[image, thing, label] = 20
            boxes[image, thing] = box_convert(unit_boxes(target)[thing], "xyxy", "cxcywh")
    losses = matching_losses(Prediction(classes, boxes), TARGETS)
    assert sum(losses.values()) < 1e-5


def test_denoising_losses_know_their_objects() -> None:
    noised = DenoisingQueries(5, 16, queries=6)(TARGETS)
    given = prediction(1, noised.size)
    losses = denoising_losses(given, noised, TARGETS)
    wanted = torch.zeros(2, noised.size, 5)
    distance = 0.0
    for image, target in enumerate(TARGETS):
        for group in range(3):
            for thing, label in enumerate(target.labels):
                query = group * 4 + thing
                wanted[image, query, label] = 1
                truth = box_convert(unit_boxes(target)[thing], "xyxy", "cxcywh")
                distance += float((given.boxes[image, query] - truth).abs().sum())
    expected = sum(
        focal(float(x), bool(is_wanted))
        for x, is_wanted in zip(given.classes.flatten(), wanted.flatten(), strict=True)
    )
    assert float(losses["loss_cls"]) == pytest.approx(expected / 9, rel=1e-4)
    assert float(losses["loss_bbox"]) == pytest.approx(5 * distance / 9, rel=1e-5)


# -- the whole model, small -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> DINO:
    return small_dino(num_classes=5, num_queries=30)


def test_detections_lie_in_their_images(model: DINO) -> None:
    sizes = [(64, 96), (48, 80)]
    with torch.no_grad():
        found = model(torch.randn(2, 3, 64, 96), sizes)
    for detections, (height, width) in zip(found, sizes, strict=True):
        assert len(detections.scores) == 150  # 30 queries of 5 classes are fewer than 300
        assert (detections.scores.diff() <= 0).all()
        assert detections.boxes.min() >= 0
        assert detections.boxes[:, 2].max() <= width
        assert detections.boxes[:, 3].max() <= height
        assert detections.labels.max() < 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(model: DINO, dtype: torch.dtype) -> None:
    """Images of two sizes; scores as a whole, since ranks near a tie may swap."""
    x, sizes = torch.randn(2, 3, 64, 96), [(64, 96), (48, 80)]
    with torch.no_grad():
        exact = model(x, sizes)
        with torch.autocast("cpu", dtype):
            rounded = model(x, sizes)
    for found, wanted in zip(rounded, exact, strict=True):
        assert found.boxes.dtype == found.scores.dtype == torch.float32
        assert found.boxes.isfinite().all()
        assert (found.scores - wanted.scores).abs().max() < 16 * torch.finfo(dtype).eps
    with torch.autocast("cpu", dtype):
        losses = model.loss(x, TARGETS)
    for name, value in losses.items():
        assert value.dtype == torch.float32, name
        assert value.isfinite(), name
    torch.stack(list(losses.values())).sum().backward()
    model.zero_grad()


@pytest.mark.parametrize("image", [0, 1])
def test_images_do_not_see_each_other(model: DINO, image: int) -> None:
    x, sizes = torch.randn(2, 3, 64, 96), [(64, 96), (48, 80)]
    with torch.no_grad():
        both = model.predict(x, sizes).layers[-1]
        alone = model.predict(x[image : image + 1], sizes[image : image + 1]).layers[-1]
    torch.testing.assert_close(both.boxes[image], alone.boxes[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both.classes[image], alone.classes[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("targets", [TARGETS, [annotated((64, 96), [], [])] * 2])
def test_every_parameter_gets_a_gradient(model: DINO, targets: list[Annotated]) -> None:
    """Without any object too: several processes wait for all gradients."""
    model.train().zero_grad()
    losses = model.loss(torch.randn(2, 3, 64, 96), targets)
    assert len(losses) == 39
    total = torch.stack(list(losses.values())).sum()
    assert total.isfinite()
    total.backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not [name for name in missing if not name.startswith("backbone.norm1")]
    model.eval()


def test_mistakes_are_named(model: DINO) -> None:
    x = torch.zeros(2, 3, 64, 96)
    with pytest.raises(ValueError, match=r"sizes: got 1, needs one for each of 2 images"):
        model.predict(x, [(64, 96)])
    with pytest.raises(ValueError, match=r"sizes: got 65 x 96, needs .*64 x 96"):
        model.predict(x, [(64, 96), (65, 96)])
    with pytest.raises(ValueError, match="targets: got 1, needs one for each of 2 images"):
        model.loss(x, TARGETS[:1])
    with pytest.raises(ValueError, match="needs features_only=True with three or four maps"):
        DINO(small_model())
    with pytest.raises(ValueError, match=r"boxes: got \(1, 4\), needs \(2, 4\)"):
        Annotated((8, 8), torch.zeros(1, 4), torch.zeros(2, dtype=torch.int64))
