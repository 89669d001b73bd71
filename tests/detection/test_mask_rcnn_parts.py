"""Mask R-CNN's parts against cases computed by hand, and the whole in every mode."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from detection_models import small_mask_rcnn
from given_maps import give_maps
from small_model import small_model
from transnext_models.dense.batches import MEAN, STD, normalise, pad_images
from transnext_models.detection import Annotated, Detections, MaskRCNN
from transnext_models.detection.anchors import anchors_of_level, valid_anchors
from transnext_models.detection.assignment import BACKGROUND, NEITHER, Assigner, Sampler
from transnext_models.detection.box_deltas import clip_boxes, decode_boxes, encode_boxes
from transnext_models.detection.mask_head import crop_masks, paste_masks
from transnext_models.detection.region_features import align_regions, region_levels

SIZE = (96, 128)


@pytest.fixture(scope="module")
def model() -> MaskRCNN:
    return small_mask_rcnn()


def picture(size: tuple[int, int] = SIZE, seed: int = 1) -> torch.Tensor:
    return torch.randn(3, *size, generator=torch.Generator().manual_seed(seed))


def annotated(objects: int = 2, size: tuple[int, int] = SIZE) -> Annotated:
    boxes = torch.tensor([[8.0, 8, 60, 70], [50, 20, 120, 90]])[:objects]
    masks = torch.zeros(objects, *SIZE, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    return Annotated(size, boxes, torch.tensor([0, 2])[:objects], masks)


def test_anchors_are_centred_on_corners_by_row_column_and_ratio() -> None:
    anchors = anchors_of_level((2, 3), 4, torch.zeros(1))
    assert anchors.shape == (18, 4)
    wide = 16 * math.sqrt(2)
    torch.testing.assert_close(anchors[0], torch.tensor([-wide, -wide / 2, wide, wide / 2]))
    torch.testing.assert_close(anchors[1], torch.tensor([-16.0, -16, 16, 16]))
    torch.testing.assert_close(anchors[4], torch.tensor([-12.0, -16, 20, 16]))  # next column
    torch.testing.assert_close(anchors[10], torch.tensor([-16.0, -12, 16, 20]))  # next row


def test_anchors_of_padding_are_not_valid() -> None:
    valid = valid_anchors((3, 3), 32, (64, 32), torch.zeros(1)).view(3, 3, 3)
    assert valid[..., 0].tolist() == [[True, False, False], [True, False, False], [False] * 3]
    assert (valid == valid[..., :1]).all()


def test_differences_are_undone() -> None:
    boxes = torch.tensor([[10.0, 20, 50, 40], [0, 0, 8, 8]])
    targets = torch.tensor([[12.0, 18, 42, 58], [1, 2, 30, 5]])
    scale = (0.1, 0.1, 0.2, 0.2)
    deltas = encode_boxes(boxes, targets, scale)
    # The first centre moves by (-3, 8) of sides (40, 20); sides change by 30/40 and 40/20.
    by_hand = torch.tensor([-0.75, 4.0, math.log(0.75) / 0.2, math.log(2) / 0.2])
    torch.testing.assert_close(deltas[0], by_hand)
    torch.testing.assert_close(decode_boxes(boxes, deltas, scale), targets)


def test_sides_grow_by_a_bounded_factor() -> None:
    grown = decode_boxes(torch.tensor([[0.0, 0, 16, 16]]), torch.tensor([[0.0, 0, 100, -100]]))
    torch.testing.assert_close(grown[0, 2] - grown[0, 0], torch.tensor(1000.0))
    torch.testing.assert_close(grown[0, 3] - grown[0, 1], torch.tensor(16 * 16 / 1000))
    assert clip_boxes(grown, (10, 20)).tolist()[0][::2] == [0, 20]


def test_assignment() -> None:
    targets = torch.tensor([[0.0, 0, 10, 10], [100, 100, 110, 110], [200, 0, 210, 10]])
    boxes = torch.tensor(
        [
            [0, 0, 10, 8],  # 0.8 of the first
            [0, 0, 10, 5],  # 0.5: neither
            [0, 0, 10, 2],  # 0.2: background
            [100, 100, 110, 104],  # 0.4: the best of the second
            [200, 0, 210, 1],  # 0.1: the best of the third, but too little
        ]
    ).float()
    found = Assigner(positive=0.7, negative=0.3, least_best=0.3)(boxes, targets)
    assert found.tolist() == [0, NEITHER, BACKGROUND, 1, BACKGROUND]
    assert Assigner(0.7, 0.3, 0.3)(boxes, targets[:0]).tolist() == [BACKGROUND] * 5


def test_the_last_object_gets_a_box_that_is_best_for_two() -> None:
    targets = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    assert Assigner(0.7, 0.3, 0.3)(targets[:1], targets).tolist() == [1]


def test_sampling() -> None:
    assigned = torch.full((1000,), BACKGROUND)
    assigned[:200] = torch.arange(200) % 7
    assigned[200:300] = NEITHER
    torch.manual_seed(0)
    sample = Sampler(64, 0.25)(assigned)
    assert (len(sample.positive), len(sample.negative)) == (16, 48)
    assert (sample.positive < 200).all()
    assert (sample.negative >= 300).all()
    assert torch.equal(sample.objects, assigned[sample.positive])
    assert len(sample.positive.unique()) == 16
    few = Sampler(64, 0.25)(assigned[195:400])
    assert (len(few.positive), len(few.negative)) == (5, 59)


def test_levels_of_regions() -> None:
    sides = torch.tensor([10.0, 111, 113, 223, 225, 447, 449, 5000])
    zero = torch.zeros_like(sides)
    levels = region_levels(torch.stack((zero, zero, sides, sides), 1))
    assert levels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_regions_by_several_threads_are_the_same() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 64 // stride, 64 // stride) for stride in (4, 8, 16, 32)]
    corners = torch.rand(2, 150, 2, 2).sort(2).values * 64
    boxes = list(corners.flatten(2))
    torch.set_num_threads(1)
    with torch.inference_mode():
        one = align_regions(maps, boxes, 7)
        torch.set_num_threads(3)
        assert torch.equal(align_regions(maps, boxes, 7), one)
    traced = align_regions([x.requires_grad_() for x in maps], boxes, 7)
    assert torch.equal(traced, one)
    traced.sum().backward()
    assert maps[0].grad is not None


def test_pasted_and_cropped_masks() -> None:
    whole = torch.ones(1, 28, 28)
    box = torch.tensor([[10.0, 5, 38, 33]])
    pasted = paste_masks(whole, box, (40, 50))
    wanted = torch.zeros(40, 50, dtype=torch.bool)
    wanted[5:33, 10:38] = True
    assert torch.equal(pasted[0], wanted)
    # Outside the image nothing is left, inside what there is.
    outside = torch.tensor([[-30.0, -30, -2, -2], [-14, 5, 14, 33], [3, 3, 3, 9]])
    areas = paste_masks(whole.expand(3, -1, -1), outside, (40, 50)).sum((1, 2))
    assert areas.tolist() == [0, 14 * 28, 0]
    cropped = crop_masks(pasted, torch.tensor([0, 0]), torch.cat((box, box + 14)))
    assert cropped[0].all()
    assert cropped[1].sum() == 14 * 14


def test_images_of_several_sizes() -> None:
    first, second = picture((40, 70)), picture((65, 33))
    batch, sizes = pad_images([first, second], 32)
    assert batch.shape == (2, 3, 96, 96)
    assert sizes == [(40, 70), (65, 33)]
    assert torch.equal(batch[0, :, :40, :70], first)
    assert batch[0].sum() == pytest.approx(float(first.sum()), abs=1e-3)
    with pytest.raises(ValueError, match="images: got none"):
        pad_images([])
    grey = torch.full((3, 2, 2), 100, dtype=torch.uint8)
    wanted = [(100 - mean) / std for mean, std in zip(MEAN, STD, strict=True)]
    assert normalise(grey)[:, 0, 0].tolist() == pytest.approx(wanted)


def assert_close(found: Detections, wanted: Detections) -> None:
    assert len(wanted.boxes) > 0
    torch.testing.assert_close(found.boxes, wanted.boxes, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=1e-4)
    assert torch.equal(found.labels, wanted.labels)
    assert found.masks is not None
    assert wanted.masks is not None
    assert (found.masks != wanted.masks).float().mean() < 1e-3


@torch.no_grad()
def test_a_batch_gives_what_single_images_do(model: MaskRCNN) -> None:
    """Padded to the same size, that is: padding is input."""
    images = [picture((64, 100), 1), picture((96, 70), 2)]
    batch, sizes = pad_images(images, 32)
    found = model(batch, sizes)
    for i, image in enumerate(images):
        alone, size = pad_images([image], 32, size=(96, 128))
        assert_close(found[i], model(alone, size)[0])
        height, width = sizes[i]
        assert found[i].masks is not None
        assert found[i].masks.shape[1:] == (height, width)
        assert (found[i].boxes >= 0).all()
        assert (found[i].boxes <= torch.tensor([width, height, width, height])).all()


@torch.no_grad()
def test_boxes_and_masks_of_the_original_image(model: MaskRCNN) -> None:
    image = picture()[None]
    (found,), (scaled,) = model(image), model(image, [SIZE], [(192, 384)])
    torch.testing.assert_close(scaled.boxes, found.boxes * torch.tensor([3.0, 2, 3, 2]))
    assert scaled.masks is not None
    assert scaled.masks.shape[1:] == (192, 384)


def test_losses_have_gradients_for_all_parameters(model: MaskRCNN) -> None:
    torch.manual_seed(0)
    losses = model.loss(picture()[None], [annotated()])
    assert list(losses) == [
        *("loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "acc", "loss_mask"),
    ]
    total = torch.stack([value for name, value in losses.items() if "loss" in name]).sum()
    model.zero_grad()
    total.backward()
    # The backbone's small maps have a single pooled cell, whose attention's keys have no say.
    heads = (model.neck, model.rpn_head, model.roi_head)
    without = [n for h in heads for n, p in h.named_parameters() if p.grad is None]
    assert not without
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.backbone.parameters())


def test_images_without_objects_teach_that_there_are_none(model: MaskRCNN) -> None:
    torch.manual_seed(0)
    losses = model.loss(picture()[None], [annotated(0)])
    assert all(value.isfinite() for value in losses.values())
    for name in ("loss_rpn_bbox", "loss_bbox", "loss_mask"):
        assert losses[name] == 0
    assert losses["loss_rpn_cls"] > 0
    assert losses["loss_cls"] > 0
    torch.stack([value for name, value in losses.items() if "loss" in name]).sum().backward()


def test_losses_without_randomness_equal_those_computed_by_hand(
    model: MaskRCNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second stage on two proposals: one is an object, one is background."""
    monkeypatch.setattr(model.roi_head, "sampler", Sampler(10**6, 1.0))
    target = annotated(1)
    proposals = torch.tensor([[10.0, 10, 58, 66], [90, 60, 120, 90]])
    with torch.no_grad():
        maps = model.pyramid(picture()[None])
        losses = model.roi_head.loss(maps, [proposals], [target])
        boxes = torch.cat((target.boxes, proposals))
        logits, moves = model.roi_head.boxes_of(maps, [boxes])
        masks = model.roi_head.masks_of(maps, [boxes[:2]])
    shares = logits.log_softmax(1)
    wanted = -(shares[0, 0] + shares[1, 0] + shares[2, 3]) / 3
    torch.testing.assert_close(losses["loss_cls"], wanted)
    truth = torch.tensor([[0.0, 0, 0, 0], [0, 0.25 / 12, math.log(52 / 48), math.log(62 / 56)]])
    truth[1, 1] = (39 - 38) / 56
    truth /= torch.tensor([0.1, 0.1, 0.2, 0.2])
    torch.testing.assert_close(losses["loss_bbox"], (moves[:2, :4] - truth).abs().sum() / 3)
    # Both boxes lie in the object, so that their masks are all ones.
    torch.testing.assert_close(losses["loss_mask"], F.softplus(-masks[:, 0]).mean())


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(model: MaskRCNN, dtype: torch.dtype) -> None:
    image = picture()[None]
    exact = model.roi_head.boxes_of(model.pyramid(image), [annotated().boxes])[0].softmax(-1)
    with torch.autocast("cpu", dtype):
        (found,) = model(image)
        rounded = model.roi_head.boxes_of(model.pyramid(image), [annotated().boxes])[0]
        losses = model.loss(image, [annotated()])
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert all(value.isfinite() for value in losses.values())
    assert (rounded.float().softmax(-1) - exact).abs().max() < 0.2


@torch.no_grad()
@pytest.mark.long
@pytest.mark.slow
def test_compiled() -> None:
    """With the graph breaks of a number of boxes that nobody knows before."""
    model, image = small_mask_rcnn(), picture()[None]
    give_maps(model, image)
    assert_close(torch.compile(model, backend="eager")(image)[0], model(image)[0])


def test_arguments_that_make_no_sense(model: MaskRCNN) -> None:
    with pytest.raises(
        ValueError, match="sizes: got 200 x 10, needs 1 x 1 to the batch's 96 x 128"
    ):
        model(picture()[None], [(200, 10)])
    with pytest.raises(ValueError, match="targets: got 0, needs one for each of 1"):
        model.loss(picture()[None], [])
    bare = Annotated(SIZE, annotated().boxes, annotated().labels)
    with pytest.raises(ValueError, match="masks: got an image without"):
        model.loss(picture()[None].expand(2, -1, -1, -1), [annotated(), bare])
    with pytest.raises(ValueError, match="needs features_only=True with four maps"):
        MaskRCNN(small_model())
