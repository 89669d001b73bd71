"""Images to boxes, masks and pictures by the public class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from detection_models import small_dino, small_mask_rcnn
from transnext_models import create_model
from transnext_models.checkpoints import CheckpointError
from transnext_models.dense.batches import fitted, pad_images
from transnext_models.detecting import Detected, Detector
from transnext_models.images import ImageError
from transnext_models.segmenting import Segmentor

SCALE = (160, 96)


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Compute on one thread."""


@pytest.fixture(scope="module", params=["maskrcnn", "dino"])
def detector(request) -> Detector:
    return Detector(small_mask_rcnn() if request.param == "maskrcnn" else small_dino(), scale=SCALE)


def photograph(height: int, width: int) -> np.ndarray:
    generator = np.random.default_rng(height)
    coarse = generator.integers(0, 256, (4, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


def test_objects_are_the_model_s_in_pixels_of_the_image(detector: Detector) -> None:
    pixels = photograph(61, 130)
    (result,) = detector.detect(pixels, threshold=0, max_objects=7)

    with torch.inference_mode():
        view = fitted(pixels, SCALE)
        images, sizes = pad_images([view], getattr(detector.model, "pad_divisor", 1))
        (expected,) = detector.model(images, sizes, [(61, 130)])

    assert isinstance(result, Detected)
    assert 0 < len(result.objects) <= 7
    assert np.array_equal(result.found.boxes, expected.boxes[:7].numpy())
    assert (result.found.boxes[:, ::2] <= 130).all()
    assert (result.found.boxes[:, 1::2] <= 61).all()
    for item, box, label, score in zip(
        result.objects, expected.boxes, expected.labels, expected.scores, strict=False
    ):
        assert item.box == tuple(box.tolist())
        assert (item.index, item.label) == (label, f"class {label}")
        assert item.score == score
    if expected.masks is not None:
        for item, mask in zip(result.objects, expected.masks, strict=False):
            assert np.array_equal(item.mask.bitmap(), mask.numpy())


def test_batches_of_several_sizes_and_what_is_no_image(detector: Detector, tmp_path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    images = [photograph(40, 90), broken, photograph(90, 40), photograph(64, 64)]
    results = list(detector.detect(images, batch_size=3, threshold=0))
    assert isinstance(results[1], ImageError)
    assert [str(result.path) for result in results] == [
        "<array 0>", str(broken), "<array 2>", "<array 3>"
    ]  # fmt: skip
    alone = [next(detector.detect(image, threshold=0)) for image in (images[0], *images[2:])]
    for together, single in zip((results[0], *results[2:]), alone, strict=True):
        assert np.array_equal(np.asarray(together.image), np.asarray(single.image))
        assert together.found.boxes.shape[1] == 4


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (1, 1), "white"),
        Image.new("L", (900, 2)),
        Image.new("RGBA", (3, 300), (9, 200, 30, 40)),
        Image.new("CMYK", (50, 40), (9, 200, 30, 40)),
        Image.fromarray(np.full((40, 50), 40_000, np.uint16)),
    ],
)
def test_any_image(detector: Detector, image: Image.Image) -> None:
    (result,) = detector.detect(image, threshold=0, max_objects=3)
    assert isinstance(result, Detected), result
    picture = result.picture(detector.palette)
    assert picture.mode == "RGB"
    assert min(picture.size) >= 50  # room for letters
    height, width = image.height, image.width
    assert (result.found.boxes <= np.array([width, height] * 2) + 1e-4).all()


def test_images_are_upright(detector: Detector, tmp_path) -> None:
    turned = Image.fromarray(photograph(40, 90))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    turned.save(tmp_path / "turned.png", exif=exif)
    (result,) = detector.detect(tmp_path / "turned.png")
    assert result.image.size == (40, 90)


def test_nothing_found(detector: Detector) -> None:
    (result,) = detector.detect(photograph(50, 50), threshold=1.0)
    assert result.objects == ()
    assert result.found.boxes.shape == (0, 4)
    assert np.asarray(result.picture(detector.palette)).shape == (500, 500, 3)


def test_outputs_that_are_not_finite_are_errors() -> None:
    for model in (small_mask_rcnn(), small_dino()):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(float("nan"))
        (result,) = Detector(model, scale=SCALE).detect(photograph(64, 64))
        assert isinstance(result, ImageError)
        assert "not finite" in result.reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: got 0, needs an int of at least 1"),
        ({"max_objects": True}, "max_objects: got True"),
        ({"threshold": 1.5}, "threshold: got 1.5, needs 0…1"),
        ({"threshold": float("nan")}, "threshold: got nan"),
    ],
)
def test_numbers_out_of_range(detector: Detector, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        detector.detect(photograph(40, 40), **options)
    with pytest.raises(TypeError, match="images"):
        detector.detect(3)


# -- weights --------------------------------------------------------------------------------------


def test_weights_say_their_model_and_classes(tmp_path) -> None:
    model = create_model("maskrcnn_transnext_pico", num_classes=2)
    metadata = {"class_names": '["cat", "dog"]', "class_colours": "[[1, 2, 3], [4, 5, 6]]"}
    file = tmp_path / "own.safetensors"
    save_file(model.state_dict(), file, metadata=metadata)

    detector = Detector.load(weights=file, device="cpu")
    assert detector.name == "maskrcnn_transnext_pico.digit_scenes"
    assert detector.weights == file
    assert detector.class_names == ["cat", "dog"]
    assert detector.palette.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert detector.category_ids == [1, 2]
    named = Detector.load(weights=file, labels=["Katze", "Hund"], device="cpu")
    assert named.class_names == ["Katze", "Hund"]
    with pytest.raises(ValueError, match="labels: got 1 name, needs 2"):
        Detector.load(weights=file, labels=["one"], device="cpu")
    with pytest.raises(CheckpointError, match="no model that can segment known by name"):
        Segmentor.load(weights=file, device="cpu")


@pytest.mark.parametrize(
    "meta",
    [
        {"CLASSES": ("cat", "dog"), "PALETTE": [[1, 2, 3], (4, 5, 6)]},
        {"dataset_meta": {"classes": ("cat", "dog"), "palette": [(1, 2, 3), (4, 5, 6)]}},
    ],
)
def test_checkpoints_of_openmmlab_say_their_classes(tmp_path, meta) -> None:
    model = create_model("maskrcnn_transnext_pico", num_classes=2)
    torch.save({"meta": meta, "state_dict": model.state_dict()}, tmp_path / "mmdet.pth")
    detector = Detector.load("maskrcnn_transnext_pico", tmp_path / "mmdet.pth", device="cpu")
    assert detector.class_names == ["cat", "dog"]
    assert detector.palette.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_load_refuses_what_it_cannot_use(tmp_path) -> None:
    with pytest.raises(ValueError, match="model: got 'upernet_transnext_tiny', needs a detector"):
        Detector.load("upernet_transnext_tiny")
    with pytest.raises(ValueError, match="unknown model 'dino_6scale'"):
        Detector.load("dino_6scale")
    with pytest.raises(ValueError, match="device: got 'tpu'"):
        Detector.load("dino_5scale_base", device="tpu")
