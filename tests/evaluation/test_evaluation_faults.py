"""What is not as it should be is named before anything runs, and nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from evaluation.made_up_sets import (
    PaintedClassifier,
    paint,
    paint_classes,
    painted,
    painted_model,
)
from training.image_layouts import archive_of
from transnext_models.evaluation.class_lists import indices_of_a, indices_of_r, wnids
from transnext_models.evaluation.options import EvaluationOptions
from transnext_models.evaluation.run import Outcome, evaluate


def refused(place: Path, **options: Any) -> str:
    """Return why an evaluation does not begin; no image was classified, no file written."""
    module = PaintedClassifier()
    options = {"output": place / "results.csv", "device": "cpu", "workers": 0, **options}
    with pytest.raises(ValueError) as raised:  # noqa: PT011 -- the message is looked at by callers
        evaluate(EvaluationOptions(**options), model=painted_model(module))
    assert module.images == 0
    assert not list(place.glob("results*"))
    return str(raised.value)


def test_a_missing_class_and_fewer_images(tmp_path: Path) -> None:
    paint_classes(tmp_path / "data", [0, 1, 2, *range(5, 1000)])
    text = refused(tmp_path, imagenet=tmp_path / "data")
    assert f"imagenet: {tmp_path / 'data'}: 2 classes missing: n01491361, n01494475" in text
    assert "998 images, needs 50000" in text
    assert "--allow-incomplete goes on" in text


def test_the_training_set_has_too_many_images(tmp_path: Path) -> None:
    paint_classes(tmp_path / "a", indices_of_a())
    many = tmp_path / "a" / wnids()[6]
    for number in range(7_301):
        (many / f"more_{number}.png").symlink_to(many / "image_0.png")
    assert "7501 images, needs 7500" in refused(tmp_path, a=tmp_path / "a")


def test_a_class_twice(tmp_path: Path) -> None:
    names = [str(label) for label in range(1000)]
    paint_classes(tmp_path / "v2", range(1000), names=names)
    shutil.copytree(tmp_path / "v2" / "7", tmp_path / "v2" / "007")
    assert "1 classes twice: 007 and 7" in refused(tmp_path, v2=tmp_path / "v2")


def test_classes_in_two_places(tmp_path: Path) -> None:
    paint_classes(tmp_path / "data", range(3))
    paint_classes(tmp_path / "data" / "val", range(3))
    text = refused(tmp_path, imagenet=tmp_path / "data")
    assert f"in several folders: {tmp_path / 'data'}, {tmp_path / 'data' / 'val'}" in text


def test_a_folder_without_images_and_one_of_no_class(tmp_path: Path) -> None:
    paint_classes(tmp_path / "a", indices_of_a())
    (tmp_path / "a" / "n00000000").mkdir()
    (tmp_path / "a" / wnids()[6] / "image_0.png").rename(tmp_path / "a" / wnids()[6] / "notes.txt")
    text = refused(tmp_path, a=tmp_path / "a")
    assert "1 folders that are no class of it: n00000000" in text
    assert f"1 folders without images: {wnids()[6]}" in text


def test_a_wrong_folder_cannot_be_passed_over(tmp_path: Path) -> None:
    paint(tmp_path / "photos" / "summer" / "x.png", 0)
    for allowed in (False, True):
        text = refused(tmp_path, imagenet=tmp_path / "photos", allow_incomplete=allowed)
        assert "no folder of a class such as n01440764, n01443537; its folders are summer" in text


def test_images_without_folders_are_counted(tmp_path: Path) -> None:
    paint(tmp_path / "flat" / "ILSVRC2012_val_00000001.png", 0)
    text = refused(tmp_path, imagenet=tmp_path / "flat", allow_incomplete=True)
    assert "1 images in no folders, needs the folders of their classes" in text
    text = refused(tmp_path, sketch=tmp_path / "flat", allow_incomplete=True)
    assert "it has no folders, and 1 images in none: each belongs into the folder" in text


def test_swapped_folders_are_named(tmp_path: Path) -> None:
    paint_classes(tmp_path / "a", indices_of_a())
    paint_classes(tmp_path / "r", indices_of_r())
    text = refused(tmp_path, a=tmp_path / "r", r=tmp_path / "a")
    assert f"a: {tmp_path / 'r'}: it looks like imagenet-r: were two folders swapped?" in text
    assert f"r: {tmp_path / 'a'}: it looks like imagenet-a: were two folders swapped?" in text


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("imagenet", "imagenet-c"),
        ("a", "imagenetv2"),
        ("sketch", "imagenet-r"),
        ("c", "imagenet-a"),
    ],
)
def test_a_set_in_the_place_of_another_is_named(tmp_path: Path, asked: str, given: str) -> None:
    folder = tmp_path / "data"
    if given == "imagenet-c":
        paint_classes(folder / "noise" / "shot_noise" / "1", range(3))
    elif given == "imagenetv2":
        paint_classes(folder, range(1000), names=[str(label) for label in range(1000)])
    else:
        paint_classes(folder, indices_of_r() if given == "imagenet-r" else indices_of_a())
    text = refused(tmp_path, **{asked: folder})
    assert f"it looks like {given}: were two folders swapped?" in text


@pytest.mark.slow
def test_sets_of_the_same_classes_are_told_apart_by_their_images(tmp_path: Path) -> None:
    """The validation images in the place of Sketch, whose folders have the same names."""
    image = painted(0)
    per_class = [f"{name}/{number}.png" for name in wnids() for number in range(50)]
    (tmp_path / "val.tar").write_bytes(archive_of(dict.fromkeys(per_class, image)))
    text = refused(tmp_path, sketch=tmp_path / "val.tar")
    assert "50000 images, needs 50889" in text
    assert "it looks like imagenet: were two folders swapped?" in text


def test_what_is_wrong_with_every_set_is_said_at_once(tmp_path: Path) -> None:
    paint(tmp_path / "photos" / "summer" / "x.png", 0)
    places = {"imagenet": "none", "a": "photos", "sketch": "gone", "v2": "photos", "c": "lost"}
    text = refused(tmp_path, **{option: tmp_path / name for option, name in places.items()})
    lines = {line.partition(": ")[0] for line in text.splitlines()}
    assert lines == set(places)


def test_the_training_archive_is_named(tmp_path: Path) -> None:
    file = tmp_path / "ILSVRC2012_img_train.tar"
    file.write_bytes(b"")
    assert "the training images, needs ILSVRC2012_img_val.tar" in refused(tmp_path, imagenet=file)


def test_wnids_are_no_v2(tmp_path: Path) -> None:
    paint_classes(tmp_path / "data", range(1000))
    text = refused(tmp_path, v2=tmp_path / "data", allow_incomplete=True)
    assert "no folder of a class such as 0, 1" in text
    assert "it looks like imagenet" in text


def test_another_variant_of_v2(tmp_path: Path) -> None:
    folder = tmp_path / "imagenetv2-top-images-format-val"
    paint_classes(folder, range(1000), names=[str(label) for label in range(1000)])
    text = refused(tmp_path, v2=folder, allow_incomplete=True)
    assert "needs a folder of matched-frequency, it has top-images only" in text


@pytest.mark.parametrize("name", ["set.tar.gz", "set.zip", "set.tar", "nothing"])
def test_what_is_no_folder_and_no_archive(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name != "nothing":
        path.write_bytes(b"no archive")
    text = refused(tmp_path, imagenet=path)
    assert text.startswith(f"imagenet: got {path}")


def test_real_labels_need_the_names_of_the_validation_images(tmp_path: Path) -> None:
    paint_classes(tmp_path / "val", range(1000))
    text = refused(tmp_path, imagenet=tmp_path / "val", real=True, allow_incomplete=True)
    assert "needs names such as ILSVRC2012_val_00000001.JPEG" in text
    (tmp_path / "real.json").write_text("[[1]]")
    text = refused(
        tmp_path, imagenet=tmp_path / "val", real=True, real_labels=tmp_path / "real.json"
    )
    assert "needs a list of labels for each of the 50,000 images" in text


def test_files_of_something_else_are_left_alone(tmp_path: Path) -> None:
    paint_classes(tmp_path / "data", range(3))
    for name, content in (("mine.csv", "a,b\n"), ("other.json", "{}"), ("odd.json", "no json")):
        file = tmp_path / name
        file.write_text(content)
        options = EvaluationOptions(
            output=file.with_suffix(".csv"),
            imagenet=tmp_path / "data",
            allow_incomplete=True,
            device="cpu",
        )
        with pytest.raises(ValueError, match="choose another name"):
            evaluate(options, model=painted_model())
        assert file.read_text() == content


def test_a_place_that_cannot_be_written_is_said_before_anything_runs(tmp_path: Path) -> None:
    paint_classes(tmp_path / "data", range(3))
    (tmp_path / "file").write_text("no folder")
    module = PaintedClassifier()
    options = EvaluationOptions(
        output=tmp_path / "file" / "results.csv",
        imagenet=tmp_path / "data",
        allow_incomplete=True,
        device="cpu",
    )
    with pytest.raises(RuntimeError, match=r"output: .*file cannot be written"):
        evaluate(options, model=painted_model(module))
    assert module.images == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "got none, needs one at least"),
        ({"folder": "x", "sizes": (16,)}, "size: got 16, needs an int of at least 32"),
        ({"folder": "x", "modes": ("square",)}, "mode: got 'square', needs one of normal"),
        ({"folder": "x", "modes": ()}, "mode: got none"),
        ({"folder": "x", "precision": "float8"}, "precision: got 'float8'"),
        ({"folder": "x", "batch_size": 0}, "batch_size: got 0"),
        ({"a": "x", "real": True}, "real: got no images, needs imagenet"),
        ({"a": "x", "corruptions": "generate"}, "needs imagenet to make them from"),
        ({"v2": "x", "v2_variants": ("all",)}, "v2_variants: got 'all'"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluationOptions(output=tmp_path / "results.csv", **options)


def failed(place: Path, data: Path, **options: Any) -> tuple[Outcome, str]:
    asked = EvaluationOptions(
        output=place / "results.csv",
        imagenet=data,
        allow_incomplete=True,
        device="cpu",
        workers=0,
        **options,
    )
    outcome = evaluate(asked, model=painted_model())
    (text,) = outcome.failures
    return outcome, text


def test_unreadable_images_end_the_row_with_their_names(tmp_path: Path) -> None:
    paint_classes(tmp_path / "data", range(20))
    cut, empty = (tmp_path / "data" / wnids()[label] / "image_0.png" for label in (3, 15))
    cut.write_bytes(cut.read_bytes()[:60])
    empty.write_bytes(b"")
    paint_classes(tmp_path / "sketch", range(20), right=5)
    outcome, text = failed(tmp_path, tmp_path / "data", sketch=tmp_path / "sketch", batch_size=4)
    assert f"{wnids()[3]}/image_0.png (" in text
    assert f"{wnids()[15]}/image_0.png (" in text
    # The sets that can be read have their rows.
    assert [row["set"] for row in outcome.rows] == ["sketch"]
    assert "imagenet," not in (tmp_path / "results.csv").read_text()


def test_outputs_that_are_no_numbers_end_the_row(tmp_path: Path) -> None:
    class Damaged(PaintedClassifier):
        def forward(self, images):
            return super().forward(images) * float("nan")

    paint_classes(tmp_path / "data", range(3))
    options = EvaluationOptions(
        output=tmp_path / "results.csv",
        imagenet=tmp_path / "data",
        allow_incomplete=True,
        device="cpu",
        workers=0,
    )
    outcome = evaluate(options, model=painted_model(Damaged()))
    assert "output is not finite for 3 images" in outcome.failures[0]
    assert not outcome.rows
