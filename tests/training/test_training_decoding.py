"""Images are decoded to the bits of Pillow's `convert("RGB")`; a fraction is enough for crops."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from hostile_images import png
from training import short_runs
from training.short_runs import StopAfter, assert_same_end, resumed
from training.test_training_run import transnext_train
from transnext_models.training import decoding, libraries
from transnext_models.training.augmentation import image_augmentation
from transnext_models.training.decoding import decode
from transnext_models.training.options import RunOptions
from transnext_models.training.recipes import get_recipe
from transnext_models.training.run import RunStopped, train
from transnext_models.training.settings import Settings


def picture(width: int = 90, height: int = 70, mode: str = "RGB") -> Image.Image:
    """A smooth picture with some noise."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / 9 + c) + np.cos(columns / (7 + c)) for c in range(3)]
    pixels = 120 + 50 * np.stack(waves, axis=-1) + rng.normal(0, 8, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def published(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def orientation() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
FILES = {
    "4:4:4": encoded(picture(), subsampling=0),
    "4:2:2": encoded(picture(), subsampling=1),
    "4:2:0": encoded(picture(), subsampling=2),
    "progressive": encoded(picture(), progressive=True),
    "large": encoded(picture(1900, 1300), quality=99),
    "grey": encoded(picture(mode="L")),
    "cmyk": encoded(picture(mode="CMYK")),
    "turned": encoded(picture(), exif=orientation()),
    "profile": encoded(picture(), icc_profile=PROFILE),
    "mpo": encoded(picture(), "MPO", save_all=True, append_images=[picture(60, 40)]),
    "png": encoded(picture(), "PNG"),
    "transparent": encoded(picture(mode="RGBA"), "PNG"),
    "palette": encoded(picture(mode="P"), "GIF"),
    "webp": encoded(picture(), "WEBP"),
    "tiff": encoded(picture(), "TIFF"),
    "bmp": encoded(picture(), "BMP"),
}


@pytest.mark.parametrize("name", FILES)
def test_the_bits_of_the_published_way(name: str) -> None:
    source = io.BytesIO(FILES[name])
    ours = decode(source)
    assert source.closed
    assert ours.mode == "RGB"
    assert np.array_equal(np.asarray(ours), np.asarray(published(FILES[name])))
    parts = [
        image.crop((3, 4, 40, 50)).resize((20, 20)) for image in (ours, published(FILES[name]))
    ]
    assert np.array_equal(*map(np.asarray, parts))


@pytest.mark.parametrize("crop_size", [None, 32])
@pytest.mark.parametrize("name", ["large", "progressive", "png", "grey"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.95])
def test_a_truncated_file_is_the_same_error(kept: float, name: str, crop_size: int | None) -> None:
    torn = FILES[name][: int(kept * len(FILES[name]))]
    with pytest.raises(OSError) as expected:  # noqa: PT011 -- whatever Pillow says
        published(torn)
    with pytest.raises(type(expected.value)) as found:
        decode(io.BytesIO(torn), crop_size)
    if crop_size is None and "not processed" not in str(expected.value):
        assert str(found.value).partition("<")[0] == str(expected.value).partition("<")[0]


@pytest.mark.parametrize("crop_size", [None, 8])
def test_too_large_an_image_is_refused_before_it_is_decoded(
    crop_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a fraction of it would fit: the limits are those of the whole."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for content in (FILES["large"], png(3000, 3000)):
        with pytest.raises(Exception, match=r"pixels"):
            decode(io.BytesIO(content), crop_size)


# -- at a fraction --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "fraction"),
    [((500, 375), 1), ((1800, 1800), 1), ((1900, 1900), 2), ((4000, 3000), 2), ((8000, 2000), 4)],
)
def test_the_smallest_crop_keeps_the_pixels_of_the_model(
    size: tuple[int, int], fraction: int
) -> None:
    file = io.BytesIO(encoded(Image.new("RGB", size), quality=20))
    decoded = decode(file, 224)
    assert decoded.size == tuple(-(-side // fraction) for side in size)
    area = decoded.width * decoded.height
    assert fraction == 1 or np.sqrt(0.08 * area * 3 / 4) > 224


def test_a_fraction_looks_like_the_whole() -> None:
    whole, part = decode(io.BytesIO(FILES["large"])), decode(io.BytesIO(FILES["large"]), 64)
    assert part.width == whole.width // 4
    ours, expected = (
        np.asarray(image.resize((190, 130), Image.Resampling.BICUBIC), np.float64)
        for image in (part, whole)
    )
    assert np.abs(ours - expected).mean() < 1


@pytest.mark.parametrize("name", ["grey", "cmyk"])
def test_other_colours_are_scaled_too(name: str) -> None:
    mode = {"grey": "L", "cmyk": "CMYK"}[name]
    content = encoded(picture(1900, 1300, mode))
    part = decode(io.BytesIO(content), 64)
    assert (part.mode, part.width) == ("RGB", 475)
    expected = published(content).reduce(4)
    assert np.abs(np.asarray(part, np.float64) - np.asarray(expected)).mean() < 2


def test_other_formats_are_whole() -> None:
    assert decode(io.BytesIO(encoded(picture(1900, 1300), "PNG")), 16).size == (1900, 1300)


def test_the_smallest_crop_is_that_of_the_augmentation() -> None:
    """`decoding` knows by heart what timm's transform draws."""
    recipe = get_recipe("imagenet_224")
    assert recipe.augmentation is not None
    options = RunOptions(recipe=recipe.name, output=Path("run"))
    transform = image_augmentation(recipe.augmentation, Settings.of(options, 1).preprocess)
    crop = transform.transforms[0]
    smallest = np.sqrt(crop.scale[0] * min(crop.ratio[0], 1 / crop.ratio[1]))
    assert pytest.approx(smallest) == decoding._SMALLEST_CROP


# -- runs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images so large that a model of 32 pixels takes them at a fraction."""
    folder = tmp_path_factory.mktemp("photographs")
    short_runs.write_images(folder, train=2, val=1, sides=(300, 400))
    return folder


def test_a_run_keeps_its_decoder(photographs: Path, tmp_path: Path) -> None:
    options = short_runs.images(tmp_path / "run", photographs, decoder="scaled", epochs=1)
    train(options)
    written = json.loads((options.output / "config.json").read_text())
    assert written["recipe"]["decoder"] == "scaled"
    exact = tmp_path / "exact"
    train(dataclasses.replace(options, output=exact, decoder=None))
    assert short_runs.untimed(exact) != short_runs.untimed(options.output)
    again = tmp_path / "again"
    result = transnext_train(
        "--config", str(options.output / "config.json"), "--output", str(again)
    )
    assert result.exit_code == 0, result.output
    assert_same_end(options.output, again)


def test_a_run_cannot_go_on_with_the_other_decoder(photographs: Path, tmp_path: Path) -> None:
    options = short_runs.images(tmp_path / "run", photographs, decoder="scaled")
    with pytest.raises(RunStopped):
        train(options, [StopAfter(1)])
    with pytest.raises(ValueError, match="decoder was 'scaled' and is 'exact'"):
        train(resumed(options, decoder="exact"))


def test_another_library_is_said(
    options: RunOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What decodes to other bits must not change a run in silence."""
    with pytest.raises(RunStopped):
        train(options, [StopAfter(1)])
    monkeypatch.setattr(libraries, "jpeg_library", lambda: "libjpeg 9f")
    capsys.readouterr()
    train(resumed(options))
    said = capsys.readouterr().err
    assert f"jpeg was {decoding.jpeg_library()} and is libjpeg 9f: the results may differ" in said
    again = dataclasses.replace(
        options, output=options.output.with_name("again"), config=options.output / "config.json"
    )
    train(again)
    assert "is libjpeg 9f" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": "turbo"}, "--decoder: got turbo, needs exact or scaled"),
        ({"decoder": "scaled", "recipe": "digits"}, "--decoder: got 'scaled', needs 'exact'"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    options: RunOptions, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(dataclasses.replace(options, **changes))
    assert not options.output.exists()
