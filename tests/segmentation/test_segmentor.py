"""Images to label maps, shares and pictures by the public class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from segmentation_models import small_segmentor
from transnext_models.dense.batches import fitted
from transnext_models.dense.classes import class_colours, class_names
from transnext_models.images import ImageError
from transnext_models.segmentation import MULTI_SCALE, WHOLE, Inference
from transnext_models.segmenting import Segmentor, draw_classes, overlay

SCALE = (256, 64)


@pytest.fixture(scope="module")
def segmentor() -> Segmentor:
    model = small_segmentor("upernet").float()
    return Segmentor(model, Inference(scale=SCALE))


def photograph(height: int, width: int) -> np.ndarray:
    generator = np.random.default_rng(height)
    coarse = generator.integers(0, 256, (4, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


def test_images_of_any_size_and_kind_become_labels(segmentor: Segmentor, tmp_path) -> None:
    pixels = [photograph(90, 130), photograph(64, 64), photograph(33, 200)]
    file = tmp_path / "photo.png"
    Image.fromarray(pixels[0]).save(file)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")

    first, bad, second, third = segmentor.segment(
        [file, broken, Image.fromarray(pixels[1]), pixels[2]]
    )

    assert isinstance(bad, ImageError)
    for result, image in zip((first, second, third), pixels, strict=True):
        assert result.labels.shape == image.shape[:2]
        assert np.array_equal(np.asarray(result.image), image)
        shares = [item.share for item in result.classes]
        assert sum(shares) == pytest.approx(1)
        for item in result.classes:
            assert item.label == segmentor.class_names[item.index]
            assert item.share == pytest.approx((result.labels == item.index).mean())
        assert shares == sorted(shares, reverse=True)
    assert first.path == file


@torch.no_grad()
def test_labels_are_those_of_the_published_steps(segmentor: Segmentor) -> None:
    """An image that already fits is normalised, nothing else."""
    pixels = photograph(64, 96)
    (result,) = segmentor.segment(pixels)
    mean = torch.tensor([123.675, 116.28, 103.53])
    std = torch.tensor([58.395, 57.12, 57.375])
    x = ((torch.from_numpy(pixels.copy()).float() - mean) / std).permute(2, 0, 1)[None]
    assert np.array_equal(result.labels, segmentor.model(x).argmax(1)[0].numpy())


def test_outputs_that_are_not_finite_are_errors() -> None:
    model = small_segmentor("upernet").float()
    with torch.no_grad():
        model.decode_head.conv_seg.bias.fill_(float("nan"))
    (result,) = Segmentor(model, Inference(scale=SCALE)).segment(photograph(64, 64))
    assert isinstance(result, ImageError)
    assert "not finite" in result.reason


def test_names_and_colours_of_ade20k() -> None:
    names = class_names(150)
    palette = class_colours(names)
    assert len(set(names)) == 150
    assert (names[0], names[2], names[149]) == ("wall", "sky", "flag")
    assert palette[:3].tolist() == [[120, 120, 120], [180, 120, 120], [6, 230, 230]]
    assert class_names(2) == ["class 0", "class 1"]
    assert len(np.unique(class_colours(class_names(40)), axis=0)) == 40
    assert class_colours(["background", "cat"])[0].tolist() == [128, 128, 128]


def test_pictures_mix_colours_and_draw_borders() -> None:
    image = Image.new("RGB", (4, 2), (100, 100, 100))
    labels = np.array([[0, 0, 1, 7], [0, 0, 1, 7]])
    palette = np.array([[200, 0, 0], [0, 0, 200]], np.uint8)
    drawn = np.asarray(overlay(image, labels, palette))
    assert drawn[0].tolist() == [[150, 50, 50], [200, 0, 0], [0, 0, 200], [100, 100, 100]]
    legend = np.asarray(draw_classes(image, labels, [(0, "red", 0.5), (1, "blue", 0.25)], palette))
    assert legend.shape[0] > 240
    assert legend.shape[1] >= 480
    for colour in palette.tolist():
        assert (legend[240:] == colour).all(-1).any()  # of 2 x 4 pixels, 120 times as large
    rest = np.asarray(draw_classes(image, labels, [(0, "Background", 0.5)], palette))
    assert (rest[100, 5] == 100).all()  # as it was
    with pytest.raises(ValueError, match=r"labels: got \(2, 3\), needs the image's \(2, 4\)"):
        overlay(image, labels[:, :3], palette)
    with pytest.raises(ValueError, match=r"share: got 2, needs 0…1"):
        overlay(image, labels, palette, 2)


def test_load_refuses_what_it_cannot_use(segmentor: Segmentor) -> None:
    with pytest.raises(ValueError, match="model: got 'dino_5scale_base', needs a segmentor"):
        Segmentor.load("dino_5scale_base")
    with pytest.raises(ValueError, match="mode: got 'half', needs one of whole, slide"):
        Segmentor.load(mode="half")
    with pytest.raises(ValueError, match="labels: got 1 name, needs 5"):
        Segmentor(segmentor.model, WHOLE, labels=["one"])


def test_several_scales_give_probabilities(segmentor: Segmentor) -> None:
    sides = ((48, 32), (96, 64))
    views = [fitted(photograph(64, 96), scale)[None] for scale in sides]
    mode = Inference(ratios=(0.5, 1.0), mirror=True)
    total = mode.scores(segmentor.model, views, (64, 96)).whole().sum(1)
    torch.testing.assert_close(total, torch.ones(1, 64, 96))
    assert MULTI_SCALE.averages
