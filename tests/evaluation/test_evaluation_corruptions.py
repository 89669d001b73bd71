"""ImageNet-C: both layouts, the mean corruption error, and corruptions made on the fly."""

from __future__ import annotations

import shutil
import sys
import tarfile
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.made_up_sets import paint, painted_model
from requirements import needs
from transnext_models.evaluation.class_lists import wnids
from transnext_models.evaluation.corruption_error import ALEXNET_ERRORS, corruption_errors
from transnext_models.evaluation.generated import Corruption
from transnext_models.evaluation.image_sets import (
    CORRUPTION_GROUPS,
    CORRUPTIONS,
    EXTRA_CORRUPTIONS,
    SEVERITIES,
)
from transnext_models.evaluation.options import EvaluationOptions
from transnext_models.evaluation.preparation import CorruptedPreprocess
from transnext_models.evaluation.run import Outcome, evaluate

# Top-1 errors in the order of CORRUPTIONS, as the authors of the set state them.
ALEXNET = [
    "0.886428", "0.894468", "0.922640", "0.819880", "0.826268", "0.785948", "0.798360", "0.866816",
    "0.826572", "0.819324", "0.564592", "0.853204", "0.646056", "0.717840", "0.606500",
]  # fmt: skip
IMAGES = 4


def wrong_ones(corruption: str, severity: int) -> int:
    """How many of the four images are painted to be answered wrongly."""
    return (CORRUPTIONS.index(corruption) + severity) % (IMAGES + 1)


def paint_corruptions(root: Path, grouped: bool) -> None:
    group_of = {name: group for group, names in CORRUPTION_GROUPS.items() for name in names}
    template = root.parent / "templates"
    for answer in range(IMAGES + 1):
        paint(template / f"{answer}.png", answer, side=224)
    for corruption in (*CORRUPTIONS, *EXTRA_CORRUPTIONS):
        place = root / group_of.get(corruption, "extra") if grouped else root
        for severity in SEVERITIES:
            wrong = wrong_ones(corruption, severity) if corruption in CORRUPTIONS else IMAGES
            for label in range(IMAGES):
                answer = label + 1 if label < wrong else label
                folder = place / corruption / str(severity) / wnids()[label]
                folder.mkdir(parents=True)
                (folder / "x.png").symlink_to(template / f"{answer}.png")


def run(place: Path, **options: Any) -> Outcome:
    asked = EvaluationOptions(
        output=place / "results.csv", allow_incomplete=True, device="cpu", workers=0, **options
    )
    return evaluate(asked, model=painted_model())


def exact_mce() -> float:
    """The formula in rational numbers."""
    errors = []
    for corruption, alexnet in zip(CORRUPTIONS, ALEXNET, strict=True):
        wrong = sum(Fraction(wrong_ones(corruption, s), IMAGES) for s in SEVERITIES)
        errors.append(wrong / (5 * Fraction(alexnet)))
    return float(100 * sum(errors) / len(errors))


@pytest.mark.parametrize("grouped", [False, True])
def test_mean_corruption_error_of_both_layouts(tmp_path: Path, grouped: bool) -> None:
    paint_corruptions(tmp_path / "c", grouped)
    rows = run(tmp_path, c=tmp_path / "c", sizes=(224,)).rows
    assert len(rows) == 76
    for row in rows[:75]:
        wrong = row["images"] - row["details"]["correct1"]
        assert wrong == wrong_ones(row["corruption"], row["severity"])
        assert row["crop_mode"] == "center-224"
    whole = rows[75]
    assert (whole["corruption"], whole["severity"]) == ("mCE", "")
    assert whole["details"]["mce"] == pytest.approx(exact_mce(), rel=0, abs=1e-12)
    mean = np.mean([row["top1_err"] for row in rows[:75]])
    assert whole["top1_err"] == pytest.approx(mean, abs=1e-4)
    assert whole["images"] == 75 * IMAGES
    text = (tmp_path / "results.md").read_text()
    assert f"mCE {whole['mce']:.2f}" in text
    assert "| gaussian_noise |" in text


def test_tars_as_they_are_downloaded(tmp_path: Path) -> None:
    paint_corruptions(tmp_path / "c", grouped=True)
    (tmp_path / "tars").mkdir()
    for group in (*CORRUPTION_GROUPS, "extra"):
        with tarfile.open(tmp_path / "tars" / f"{group}.tar", "w", dereference=True) as archive:
            for folder in sorted((tmp_path / "c" / group).iterdir()):
                archive.add(folder, folder.name)
    whole = run(tmp_path, c=tmp_path / "tars", sizes=(224,)).rows[75]
    assert whole["details"]["mce"] == pytest.approx(exact_mce(), rel=0, abs=1e-12)


def test_another_size_is_resized_and_marked(tmp_path: Path) -> None:
    paint_corruptions(tmp_path / "c", grouped=False)
    rows = run(tmp_path, c=tmp_path / "c", sizes=(64,)).rows
    assert "resized from 224" in rows[75]["note"]
    assert rows[75]["details"]["mce"] == pytest.approx(exact_mce(), rel=0, abs=1e-12)
    assert rows[0]["crop_mode"] == "center-224-to-64"


def test_what_is_missing_or_double_is_named(tmp_path: Path) -> None:
    paint_corruptions(tmp_path / "c", grouped=True)
    shutil.rmtree(tmp_path / "c" / "weather" / "snow")
    shutil.rmtree(tmp_path / "c" / "noise" / "shot_noise" / "3")
    shutil.copytree(tmp_path / "c" / "blur" / "glass_blur", tmp_path / "c" / "glass_blur")
    options = EvaluationOptions(output=tmp_path / "r.csv", c=tmp_path / "c", device="cpu")
    with pytest.raises(ValueError, match="1 corruptions missing: snow") as raised:
        evaluate(options, model=painted_model())
    assert "shot_noise: severity 3 missing" in str(raised.value)
    assert "glass_blur twice" in str(raised.value)
    rows = run(tmp_path, c=tmp_path / "c", sizes=(224,)).rows
    assert len(rows) == 69  # and no mean over what is not all


def test_formula() -> None:
    assert list(ALEXNET_ERRORS) == list(CORRUPTIONS)
    assert list(ALEXNET_ERRORS.values()) == [float(number) for number in ALEXNET]
    errors = {(c, s): ALEXNET_ERRORS[c] for c in CORRUPTIONS for s in SEVERITIES}
    found = corruption_errors(errors)
    assert found.mce == pytest.approx(100.0, rel=0, abs=1e-12)
    assert found.mean_error == pytest.approx(sum(ALEXNET_ERRORS.values()) / 15, abs=1e-15)
    del errors["fog", 4]
    with pytest.raises(ValueError, match="fog"):
        corruption_errors(errors)


def test_stored_images_are_cropped_and_never_resized_at_224() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (230, 226, 3), dtype=np.uint8)
    prepared = CorruptedPreprocess(224, (0, 0, 0), (1, 1, 1))(Image.fromarray(pixels))
    wanted = pixels[3:227, 1:225].transpose(2, 0, 1)
    assert (prepared.numpy() * 255).round().astype(np.uint8).tolist() == wanted.tolist()
    with pytest.raises(ValueError, match="100x230 pixels, needs 224x224"):
        CorruptedPreprocess(224, (0, 0, 0), (1, 1, 1))(Image.new("RGB", (100, 230)))


# -- made on the fly ------------------------------------------------------------------------------


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that corrupts by NumPy's generator, as the real one does."""
    module: Any = ModuleType("corrupt_tta")

    def corrupt(x: Any, severity: int, name: str) -> Any:
        noise = np.random.normal(size=x.shape, scale=severity)  # noqa: NPY002
        return x + noise

    module.corrupt = corrupt
    monkeypatch.setitem(sys.modules, "corrupt_tta", module)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_corrupted_the_same_way_whenever(name: str) -> None:
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    )

    def made(severity: int, path: str) -> list[Any]:
        return np.asarray(Corruption(name, severity)(image, path)).tolist()

    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first = made(2, "val/n01440764/x.JPEG")
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    assert made(2, "n01440764/x.JPEG") == first
    assert np.shape(first) == (224, 224, 3)
    assert made(2, "n01440764/y.JPEG") != first
    assert made(3, "n01440764/x.JPEG") != first


@needs("corrupt-tta")[0]
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_package_makes_all_of_them(name: str) -> None:
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    ).resize((320, 256))
    clean = np.asarray(image.crop((48, 16, 272, 240)), dtype=float)
    away = []
    for severity in SEVERITIES:
        made = np.asarray(Corruption(name, severity)(image, "n01440764/x.JPEG"), dtype=float)
        again = np.asarray(Corruption(name, severity)(image, "n01440764/x.JPEG"), dtype=float)
        np.testing.assert_array_equal(made, again)
        away.append(np.abs(made - clean).mean())
    assert min(away) > 0.5


@pytest.mark.usefixtures("stand_in")
def test_generated_rows_are_labelled_and_have_no_mce(tmp_path: Path) -> None:
    for label in range(2):
        paint(tmp_path / "val" / wnids()[label] / "x.png", label, side=256)
    rows = run(tmp_path, imagenet=tmp_path / "val", corruptions="generate", sizes=(224,)).rows
    made = [row for row in rows if row["set"] == "imagenet-c-generated"]
    assert len(rows) == 1 + 75 + 1
    assert len(made) == 76
    assert all(row["note"].startswith("generated") for row in made)
    assert all(row["mce"] is None and row["published"] is None for row in rows)
    assert made[-1]["corruption"] == "mean"


def test_without_the_package_the_install_hint_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "corrupt_tta", None)
    paint(tmp_path / "val" / wnids()[0] / "x.png", 0)
    with pytest.raises(RuntimeError, match=r"pip install 'transnext-vision\[corruptions\]'"):
        run(tmp_path, imagenet=tmp_path / "val", corruptions="generate")
