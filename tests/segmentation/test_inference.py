"""Windows, scales and mirror images against a plain implementation; rows against the whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segmentation_models import METHODS, small_segmentor
from transnext_models.segmentation import (
    MULTI_SCALE,
    SLIDE,
    WHOLE,
    WHOLE_PADDED,
    Inference,
    SegmentationModel,
)
from transnext_models.segmentation.inference import slide_windows
from transnext_models.segmentation.row_maps import RowMap


@pytest.fixture(scope="module", params=METHODS)
def model(request) -> SegmentationModel:
    return small_segmentor(request.param)


@pytest.fixture(scope="module")
def upernet() -> SegmentationModel:
    return small_segmentor("upernet")


def images(height: int, width: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randn(batch, 3, height, width, generator=generator, dtype=torch.float64)


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("size", [(13, 7), (40, 90), (9, 31), (17, 19)])
def test_rows_are_those_of_the_whole(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 17, 19, dtype=torch.float64)
    resized = RowMap.of(x).resized(size)
    expected = resize(x, size)
    torch.testing.assert_close(resized.whole(), expected)
    torch.testing.assert_close(resized.rows(3, 8), expected[:, :, 3:8])
    chain = resized.cropped((8, 6)).resized((30, 20)).softmax().mirrored()
    expected = resize(expected[:, :, :8, :6], (30, 20)).softmax(1).flip(-1)
    torch.testing.assert_close(chain.rows(29, 30), expected[:, :, 29:])
    torch.testing.assert_close(
        RowMap.mean([chain, chain.mirrored()]).whole(), (expected + expected.flip(-1)) / 2
    )


def test_best_goes_through_bands(monkeypatch) -> None:
    monkeypatch.setattr("transnext_models.segmentation.row_maps._BAND", 500)
    x = torch.randn(2, 5, 33, 21)
    scores = RowMap.of(x)
    assert len(scores.bands()) == 17
    values, labels = scores.best()
    assert torch.equal(values, x.amax(1))
    assert torch.equal(labels, x.argmax(1))


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (100, [(0, 100)]),
        (512, [(0, 512)]),
        (513, [(0, 512), (1, 513)]),
        (853, [(0, 512), (341, 853)]),
        (854, [(0, 512), (341, 853), (342, 854)]),
        (2048, [(0, 512), (341, 853), (682, 1194), (1023, 1535), (1364, 1876), (1536, 2048)]),
    ],
)
def test_windows_cover_the_image(side: int, expected: list[tuple[int, int]]) -> None:
    assert [window[2:] for window in slide_windows((300, side))] == expected
    assert [window[:2] for window in slide_windows((side, 300))] == expected
    assert all(window[:2] == (0, 300) for window in slide_windows((300, side)))


@torch.no_grad()
def test_slide_averages_the_logits_of_windows(model: SegmentationModel) -> None:
    """Pixel by pixel: the mean over the windows that hold it."""
    x = images(70, 100)
    mode = Inference("slide", window=48, stride=30)
    rows, columns = (0, 22), (0, 30, 52)
    total, count = torch.zeros(1, 5, 70, 100).double(), torch.zeros(70, 100)
    for top in rows:
        for left in columns:
            inside = F.pad(
                model(x[..., top : top + 48, left : left + 48]), (left, 52 - left, top, 22 - top)
            )
            total += inside
            count[top : top + 48, left : left + 48] += 1
    expected = resize(total / count, (140, 95))
    scores = mode.scores(model, [x], (140, 95))
    torch.testing.assert_close(scores.whole(), expected)
    assert torch.equal(scores.best()[1], expected.argmax(1))


@torch.no_grad()
def test_slide_takes_a_small_image_whole(upernet: SegmentationModel) -> None:
    x = images(40, 64)
    torch.testing.assert_close(
        SLIDE.scores(upernet, [x], (40, 64)).whole(), WHOLE.scores(upernet, [x], (40, 64)).whole()
    )


@torch.no_grad()
def test_whole_pads_at_right_and_bottom_and_cuts_it_off(model: SegmentationModel) -> None:
    x = images(50, 70, batch=2)
    padded = torch.zeros(2, 3, 64, 96).double()
    padded[..., :50, :70] = x
    expected = resize(model(padded)[..., :50, :70], (31, 44))
    torch.testing.assert_close(WHOLE_PADDED.scores(model, [x], (31, 44)).whole(), expected)


@torch.no_grad()
@pytest.mark.parametrize("position_bias", ["interpolate", "extrapolate"])
def test_scales_and_mirror_images_average_softmaxes(
    upernet: SegmentationModel, monkeypatch, position_bias: str
) -> None:
    monkeypatch.setattr(upernet.backbone, "position_bias", position_bias)
    views = [images(int(64 * ratio), int(96 * ratio)) for ratio in MULTI_SCALE.ratios]
    size = (60, 90)
    total = torch.zeros(1, 5, *size).double()
    for view in views:
        total += resize(upernet(view), size).softmax(1)
        total += resize(upernet(view.flip(-1)), size).softmax(1).flip(-1)

    scores = MULTI_SCALE.scores(upernet, views, size)

    torch.testing.assert_close(scores.whole(), total / 12)
    torch.testing.assert_close(scores.whole().sum(1), torch.ones(1, *size).double())


def test_published_scales() -> None:
    assert WHOLE.scales() == [(2048, 512)]
    expected = [(1024, 256), (1536, 384), (2048, 512), (2560, 640), (3072, 768), (3584, 896)]
    assert MULTI_SCALE.scales() == expected


def test_errors_name_what_is_needed(upernet: SegmentationModel) -> None:
    with pytest.raises(ValueError, match="mode: got 'half', needs 'whole' or 'slide'"):
        Inference("half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"stride: got 600, needs 1…512"):
        Inference("slide", stride=600)
    with pytest.raises(ValueError, match="divisor: got 0"):
        Inference(divisor=0)
    with pytest.raises(ValueError, match="ratios: got "):
        replace(WHOLE, ratios=())
    with pytest.raises(ValueError, match="views: got 1, needs one for each of"):
        MULTI_SCALE.scores(upernet, [images(64, 64)], (64, 64))
