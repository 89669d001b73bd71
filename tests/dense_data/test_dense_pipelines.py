"""The published pipelines: distributions over many draws, and exact results of given ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from dense_data import plain_pipelines as plain
from transnext_models.dense.batches import MEAN, STD
from transnext_models.dense.opencv_resize import fitting_size, resize_bilinear
from transnext_models.dense_data.batches import collate
from transnext_models.dense_data.cropping import BalancedCrop, BoxCrop
from transnext_models.dense_data.draws import Draws, GivenDraws
from transnext_models.dense_data.geometry import Flip, Resize
from transnext_models.dense_data.orientation import OrientedOrder
from transnext_models.dense_data.photometric import PhotometricDistortion
from transnext_models.dense_data.pipelines import METHODS, mask2former_sides
from transnext_models.dense_data.sample import DenseSample
from transnext_models.training.sampling import EpochBatches


def sample(height: int = 60, width: int = 80, seed: int = 0) -> DenseSample:
    """A picture of noise with three boxes, their masks, and a label map of stripes."""
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
    boxes = np.array([[0, 0, 20, 30], [30.5, 10.25, 50, 40], [70, 50, 80, 60]], np.float32)
    masks = np.zeros((3, height, width), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top:bottom, left:right] = 1
    labels = np.broadcast_to(np.arange(width) // 10 % 5, (height, width)).astype(np.uint8)
    numbers = np.array([3, 1, 2])
    return DenseSample(image, 7, (height, width), boxes, numbers, masks, labels.copy())


def bounds(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


# -- each step on all parts of a sample --------------------------------------------------------


def test_resizing_takes_all_parts_along() -> None:
    result = Resize((160, 120))(sample(), GivenDraws(()))
    assert result.size == (120, 160)
    assert result.masks.shape == (3, 120, 160)
    np.testing.assert_array_equal(result.boxes, 2 * sample().boxes)
    np.testing.assert_array_equal(result.label_map, sample().label_map.repeat(2, 0).repeat(2, 1))
    assert bounds(result.masks[0]) == [0, 0, 40, 60]
    assert result.scale == (2, 2)
    assert result.original_size == (60, 80)


def test_boxes_are_clipped_after_resizing() -> None:
    beyond = replace(sample(), boxes=np.array([[-5, -5, 90, 70]] * 3, np.float32))
    result = Resize((160, 120))(beyond, GivenDraws(()))
    assert result.boxes.tolist() == [[0, 0, 160, 120]] * 3


def test_a_mirror_image() -> None:
    before = sample()
    result = Flip()(before, GivenDraws([1]))
    np.testing.assert_array_equal(result.image, before.image[:, ::-1])
    np.testing.assert_array_equal(result.label_map, before.label_map[:, ::-1])
    assert result.boxes[0].tolist() == [60, 0, 80, 30]
    assert result.boxes[1].tolist() == [30, 10.25, 49.5, 40]
    assert bounds(result.masks[0]) == [60, 0, 80, 30]
    assert Flip()(before, GivenDraws([0])) is before


def test_a_crop_drops_what_lies_outside_it() -> None:
    # Height 40, width 30, from row 15 and column 25.
    result = BoxCrop((30, 40))(sample(), GivenDraws([40, 30, 15, 25]))
    np.testing.assert_array_equal(result.image, sample().image[15:55, 25:55])
    assert result.labels.tolist() == [1]
    assert result.boxes.tolist() == [[5.5, 0, 25, 25]]
    assert result.masks.shape == (1, 40, 30)
    assert bounds(result.masks[0]) == [5, 0, 25, 25]
    assert result.label_map.shape == (40, 30)


def test_a_crop_may_hold_no_box() -> None:
    result = BoxCrop((10, 10))(sample(), GivenDraws([10, 10, 45, 0]))
    assert len(result.boxes) == len(result.labels) == len(result.masks) == 0
    assert result.masks.shape == (0, 10, 10)


def test_a_crop_of_an_image_that_is_smaller_takes_all_of_it() -> None:
    before = sample(20, 30)
    result = BalancedCrop(50)(replace(before, boxes=None, masks=None), GivenDraws([0, 0]))
    np.testing.assert_array_equal(result.image, before.image)


def test_a_crop_that_one_class_fills_is_drawn_again() -> None:
    labels = np.zeros((60, 80), np.uint8)
    labels[:, 50:] = 4
    before = replace(sample(), label_map=labels, boxes=None, masks=None, labels=None)
    # Columns 0…20 are of one class, 36…56 have 14 of 20 columns of the first.
    given = GivenDraws([0, 0, 3, 36])
    result = BalancedCrop(20)(before, given)
    np.testing.assert_array_equal(result.image, before.image[3:23, 36:56])
    assert given.taken == [0, 0, 3, 36]
    # 15 of 20 columns are no less than three quarters.
    again = GivenDraws([0, 35, 0, 36])
    assert BalancedCrop(20)(before, again).label_map[0, 0] == 0
    assert again.taken == [0, 35, 0, 36]


def test_after_ten_crops_the_eleventh_is_taken_as_it_is() -> None:
    before = replace(sample(), label_map=np.zeros((60, 80), np.uint8), boxes=None, masks=None)
    given = GivenDraws([0, 0] * 10 + [7, 9])
    result = BalancedCrop(20)(before, given)
    np.testing.assert_array_equal(result.image, before.image[7:27, 9:29])
    assert len(given.taken) == 22


def test_ignored_pixels_do_not_count_as_a_class() -> None:
    labels = np.full((60, 80), 255, np.uint8)
    labels[:2, :2], labels[2:4, :2] = 1, 2
    before = replace(sample(), label_map=labels, boxes=None, masks=None)
    given = GivenDraws([0, 0])
    BalancedCrop(20)(before, given)  # two classes with half each
    assert len(given.taken) == 2


@pytest.mark.parametrize("seed", range(12))
def test_photometric_distortion_beside_the_standard_library_s_colours(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = plain.photometric_draws(generator)
    before = sample(12, 15, seed)
    given = GivenDraws(values)
    result = PhotometricDistortion()(before, given).image
    assert given.taken == values
    far = np.abs(result.astype(int) - plain.photometric(before.image, values))
    # Hue in 180 steps: where the two round it apart, a channel is 8.5 off, at most 1.5 times that.
    assert far.max() <= 13
    assert (far > 2).mean() < 0.02


def test_given_draws_are_checked() -> None:
    with pytest.raises(ValueError, match=r"draws: got None at 0, needs 0 ≤ x < 2"):
        Flip()(sample(), GivenDraws(()))
    with pytest.raises(ValueError, match="draws: got 5 at 0"):
        Flip()(sample(), GivenDraws([5]))


# -- whole pipelines ---------------------------------------------------------------------------


def sizes_of(method: str, height: int, width: int, count: int) -> list[tuple[int, int]]:
    """The sizes that training images get, in `count` draws; their pixels stay out of it."""
    flat = DenseSample(np.zeros((height, width, 3), np.uint8), 0, (height, width))
    training = METHODS[method].training
    return [training(flat, Draws(np.random.default_rng(n))).size for n in range(count)]


def test_mask_rcnn_has_one_size() -> None:
    assert set(sizes_of("maskrcnn", 48, 64, 4)) == {(800, 1067)}
    assert set(sizes_of("maskrcnn", 64, 30, 4)) == {(1333, 625)}


@pytest.mark.slow
def test_dino_s_sizes() -> None:
    found = sizes_of("dino", 48, 64, 300)
    without_crop = {(short, round(short * 64 / 48)) for short in range(480, 801, 32)}
    plain_share = np.mean([size in without_crop for size in found])
    assert 0.4 < plain_share < 0.65  # half, and crops that end at one of these sizes
    shorter = Counter(min(size) for size in found)
    assert set(range(480, 801, 32)) >= {side for side in shorter if side >= 480}
    assert max(max(size) for size in found) <= 1333


def test_mask2former_s_sides() -> None:
    expected = "256 307 358 409 460 512 563 614 665 716 768 819 870 921 972 1024"
    assert " ".join(map(str, mask2former_sides())) == expected


@pytest.mark.parametrize("method", ["upernet", "mask2former"])
def test_segmentation_trains_on_squares(method: str) -> None:
    for height, width in sizes_of(method, 48, 64, 12):
        assert max(height, width) <= 512  # what is missing is padded


def test_the_factor_of_upernet_is_even_between_a_half_and_two() -> None:
    resize = METHODS["upernet"].training.steps[0]
    flat = DenseSample(np.zeros((4, 4, 3), np.uint8), 0, (4, 4))
    sides = np.array([resize(flat, GivenDraws([f])).size[0] for f in (0.5, 1.0, 1.75, 1.999)])
    assert sides.tolist() == [256, 512, 896, 1023]
    draws = Draws(np.random.default_rng(0))
    factors = [draws.uniform(*resize.factors) for _ in range(2000)]
    assert np.histogram(factors, 4, (0.5, 2.0))[0].min() > 430


def test_dino_s_two_ways_by_given_draws() -> None:
    training = METHODS["dino"].training
    before = replace(sample(), label_map=None, masks=None)
    # Mirrored; the first way; short side 512.
    result = training(before, GivenDraws([1, 0, 1]))
    mirrored = before.image[:, ::-1]
    np.testing.assert_array_equal(result.image, resize_bilinear(mirrored, (512, 683)))
    # Not mirrored; the second way; short side 500, 400 by 600 from row 20 and column 30; then 480.
    result = training(before, GivenDraws([0, 1, 1, 400, 600, 20, 30, 0]))
    part = resize_bilinear(before.image, (500, 667))[20:420, 30:630]
    np.testing.assert_array_equal(result.image, resize_bilinear(part, (480, 720)))


def test_a_sample_is_the_same_from_its_generator_and_from_its_noted_draws() -> None:
    for name, method in METHODS.items():
        first = Draws(np.random.default_rng(5))
        once = method.training(sample(), first)
        again = method.training(sample(), Draws(np.random.default_rng(5)))
        replayed = method.training(sample(), GivenDraws(first.taken))
        for other in (again, replayed):
            np.testing.assert_array_equal(once.image, other.image, name)
            np.testing.assert_array_equal(once.boxes, other.boxes, name)
            np.testing.assert_array_equal(once.label_map, other.label_map, name)


@pytest.mark.parametrize("method", METHODS)
def test_annotations_keep_to_their_image(method: str) -> None:
    """Boxes stay around their masks, and masks on the pixels that they were on."""
    height, width = 90, 120
    image = np.zeros((height, width, 3), np.uint8)
    mask = np.zeros((1, height, width), np.uint8)
    mask[0, 20:50, 30:80] = 1
    image[20:50, 30:80] = 255
    whole = DenseSample(
        *(image, 0, (height, width), np.array([[30, 20, 80, 50]], np.float32), np.array([0])),
        *(mask, mask[0].copy()),
    )
    steps = [step for step in METHODS[method].training.steps if not _changes_colours(step)]
    for seed in range(6):
        draws, result = Draws(np.random.default_rng(seed)), whole
        for step in steps:
            result = step(result, draws)
        white = result.image[..., 0] > 127
        assert (white != result.label_map.astype(bool)).mean() < 0.02
        for box, part in zip(result.boxes, result.masks, strict=True):
            assert (white != part.astype(bool)).mean() < 0.02
            assert np.abs(np.array(bounds(part)) - box).max() < 0.03 * max(result.size)


def _changes_colours(step: object) -> bool:
    return isinstance(step, PhotometricDistortion)


# -- batches -----------------------------------------------------------------------------------


def test_a_batch_is_normalised_and_padded() -> None:
    first, second = sample(40, 50), sample(30, 70, 1)
    batch = collate([first, second], divisor=32)
    assert batch.images.shape == (2, 3, 64, 96)
    assert batch.sizes == [(40, 50), (30, 70)]
    expected = (first.image.astype(np.float64) - MEAN) / STD
    np.testing.assert_allclose(
        batch.images[0, :, :40, :50].permute(1, 2, 0).numpy(), expected, atol=1e-6
    )
    assert not batch.images[0, :, 40:].any()
    assert not batch.images[1, :, :, 70:].any()
    assert batch.masks[1].shape == (3, 64, 96)
    assert batch.label_maps.dtype == torch.int64
    assert (batch.label_maps[0, 40:] == 255).all()
    assert (batch.label_maps[0, :40, :50] != 255).all()
    assert batch.boxes[0].dtype == torch.float32
    assert batch.to("cpu").images.shape == batch.images.shape


def test_a_batch_has_a_least_side() -> None:
    assert collate([sample(40, 50)], least_side=64).images.shape == (1, 3, 64, 64)
    assert collate([sample(40, 50)]).images.shape == (1, 3, 40, 50)


def oriented_batches(
    is_wide: list[bool], seed: int, batch_size: int, rank: int = 0, ranks: int = 1
) -> EpochBatches:
    order = OrientedOrder(is_wide, seed, batch_size, ranks)
    return EpochBatches(order, len(order), batch_size, rank, ranks)


@pytest.mark.parametrize("ranks", [1, 3])
def test_oriented_batches(ranks: int) -> None:
    is_wide = [number % 3 != 0 for number in range(50)]
    samplers = [oriented_batches(is_wide, 4, 2, rank, ranks) for rank in range(ranks)]
    epoch = [list(sampler) for sampler in samplers]
    assert {len(batches) for batches in epoch} == {len(samplers[0])}
    for batches in epoch:
        for batch in batches:
            assert len({is_wide[sample.image] for sample in batch}) == 1
    samples = [sample for batches in epoch for batch in batches for sample in batch]
    assert {sample.image for sample in samples} == set(range(50))
    assert len({sample.position for sample in samples}) == len(samples)
    assert len(samples) - 50 < 2 * 2 * ranks


def test_oriented_batches_go_on_where_they_were() -> None:
    sampler = oriented_batches([True] * 9 + [False] * 4, 0, 2)
    whole = list(sampler)
    sampler.start(0, 3)
    assert list(sampler) == whole[3:]
    sampler.start(1)
    other = list(sampler)
    assert [s.image for b in other for s in b] != [s.image for b in whole for s in b]


def test_sizes_that_fit() -> None:
    for size in ((37, 91), (91, 37), (500, 500)):
        assert fitting_size(size, (1333, 800)) == plain.fit(*size, 1333, 800)
