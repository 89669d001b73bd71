"""Each set, in each of its layouts, gives exactly the accuracy that is painted on its images."""

from __future__ import annotations

import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluation.made_up_sets import paint, paint_classes, painted_model, rows_of
from transnext_models.evaluation.class_lists import indices_of_a, indices_of_r, wnids
from transnext_models.evaluation.generated import Corruption
from transnext_models.evaluation.loading import ImageSource, batches
from transnext_models.evaluation.preparation import CorruptedPreprocess
from transnext_models.evaluation.rows import Row
from transnext_models.evaluation.trees import open_tree


def counts(row: Row) -> tuple[str, int, int, int]:
    return row["set"], row["images"], row["details"]["correct1"], row["details"]["correct5"]


def packed(root: Path, file: Path, inside: str) -> Path:
    with tarfile.open(file, "w") as archive:
        archive.add(root, inside)
    return file


def test_class_lists_are_those_of_the_authors() -> None:
    a, r = indices_of_a(), indices_of_r()
    assert (len(wnids()), len(a), len(r), len(set(a) & set(r))) == (1000, 200, 200, 86)
    assert (wnids()[0], wnids()[999]) == ("n01440764", "n15075141")
    assert (a[:4], a[-1], r[:4], r[-1]) == ((6, 11, 13, 15), 988, (1, 2, 4, 6), 988)


@pytest.mark.parametrize("inside", ["", "val", "validation"])
def test_validation_images(tmp_path: Path, inside: str) -> None:
    paint_classes(tmp_path / "data" / inside, range(0, 1000, 9), right=80)
    (row,) = rows_of(tmp_path, imagenet=tmp_path / "data")
    assert counts(row) == ("imagenet", 112, 80, 80)
    assert row["top1"] == round(100 * 80 / 112, 4)
    assert row["note"] == "incomplete: 112 of 50000 images"
    per_class = row["details"]["per_class"]
    assert per_class[wnids()[0]] == {"correct": 1, "images": 1}
    assert per_class[wnids()[999]] == {"correct": 0, "images": 1}


def test_a_tar_as_it_is_downloaded_is_the_folder(tmp_path: Path) -> None:
    paint_classes(tmp_path / "folder", indices_of_a(), right=123)
    file = packed(tmp_path / "folder", tmp_path / "imagenet-a.tar", "imagenet-a")
    rows = [
        rows_of(tmp_path / name, a=path)[0]
        for name, path in (("1", tmp_path / "folder"), ("2", file))
    ]
    assert [counts(row)[:3] for row in rows] == [("imagenet-a", 200, 123)] * 2
    assert rows[0]["loss"] == rows[1]["loss"]


@pytest.mark.parametrize(("option", "classes"), [("a", indices_of_a), ("r", indices_of_r)])
def test_logits_are_restricted_to_the_classes(tmp_path: Path, option: str, classes: Any) -> None:
    """An answer outside of the 200 counts for nothing: the best answer inside of them is taken."""
    inside = set(classes())
    # The classifier answers the class before the label, which is none of the 200.
    labels = [label for label in classes() if label - 1 not in inside and label > 0]
    for label in labels:
        paint(tmp_path / "data" / wnids()[label] / "x.png", label - 1)
    (restricted,) = rows_of(tmp_path / "1", **{option: tmp_path / "data"})
    assert counts(restricted)[1:] == (len(labels), len(labels), len(labels))
    (plain,) = rows_of(tmp_path / "2", imagenet=tmp_path / "data")
    assert counts(plain)[1:] == (len(labels), 0, len(labels))


def test_clean_accuracy_on_the_same_classes(tmp_path: Path) -> None:
    """The validation images of the 200 classes stand beside A and R, in the same pass."""
    right = set(indices_of_a()[:150])
    for label in range(1000):
        answer = label if label in right else (label + 5) % 1000  # nowhere near
        paint(tmp_path / "val" / wnids()[label] / "x.png", answer)
    paint_classes(tmp_path / "a", indices_of_a(), right=10)
    paint_classes(tmp_path / "r", indices_of_r(), right=20)
    rows = rows_of(tmp_path, imagenet=tmp_path / "val", a=tmp_path / "a", r=tmp_path / "r")
    found = {row["set"]: row for row in rows}
    assert list(found) == [
        "imagenet", "imagenet-a-clean", "imagenet-r-clean", "imagenet-a", "imagenet-r",
    ]  # fmt: skip
    assert counts(found["imagenet"])[1:3] == (1000, 150)
    assert found["imagenet-a-clean"]["images"] == 200
    assert found["imagenet-a-clean"]["details"]["correct1"] >= 150
    assert found["imagenet-r-clean"]["images"] == 200
    assert set(found["imagenet-r-clean"]["details"]["per_class"]) == {
        wnids()[label] for label in indices_of_r()
    }


def test_v2_folders_are_numbers_whose_order_is_a_trap(tmp_path: Path) -> None:
    """Sorted as text, 10 comes before 2: all but a few answers would be wrong."""
    folder = tmp_path / "imagenetv2-matched-frequency-format-val"
    names = [str(label) for label in range(1000)]
    assert sorted(names) != names
    paint_classes(folder, range(1000), right=700, names=names)
    (row,) = rows_of(tmp_path, v2=folder)
    assert counts(row) == ("imagenetv2-matched-frequency", 1000, 700, 1000)


def test_all_variants_of_v2_in_one_folder(tmp_path: Path) -> None:
    unpacked = {
        "matched-frequency": "imagenetv2-matched-frequency-format-val",
        "threshold-0.7": "imagenetv2-threshold0.7-format-val",
        "top-images": "imagenetv2-top-images-format-val",
    }
    names = [str(label) for label in range(1000)]
    for right, name in enumerate(unpacked.values(), start=3):
        paint_classes(tmp_path / "v2" / name, range(12), right=right, names=names)
    rows = rows_of(tmp_path, v2=tmp_path / "v2", v2_variants=tuple(unpacked))
    assert [counts(row)[:3] for row in rows] == [
        ("imagenetv2-matched-frequency", 12, 3),
        ("imagenetv2-threshold-0.7", 12, 4),
        ("imagenetv2-top-images", 12, 5),
    ]


def test_real_labels(tmp_path: Path) -> None:
    """Several answers are right, and images without any are left out."""
    answers: list[list[int]] = [[] for _ in range(50_000)]
    for number, (answer, right) in enumerate(
        [(7, [7]), (7, [3, 7]), (7, []), (7, [9]), (7, [2])], start=1
    ):
        name = f"ILSVRC2012_val_{number:08d}.png"
        paint(tmp_path / "val" / wnids()[7] / name, answer)
        answers[number - 1] = right
    file = tmp_path / "real.json"
    file.write_text(json.dumps(answers))
    rows = rows_of(tmp_path, imagenet=tmp_path / "val", real=True, real_labels=file)
    assert [counts(row) for row in rows] == [("imagenet", 5, 5, 5), ("imagenet-real", 4, 2, 3)]
    assert rows[1]["loss"] is None


def test_real_labels_come_with_timm(tmp_path: Path) -> None:
    paint(tmp_path / "val" / wnids()[65] / "ILSVRC2012_val_00000002.png", 970)
    rows = rows_of(tmp_path, imagenet=tmp_path / "val", real=True)
    # timm's list says 970 and 795 of the second image.
    assert [counts(row)[1:3] for row in rows] == [(1, 0), (1, 1)]


def test_sketch_and_a_users_own_folder(tmp_path: Path) -> None:
    paint_classes(tmp_path / "data", range(50), right=20)
    rows = rows_of(tmp_path, sketch=tmp_path / "data", folder=tmp_path / "data")
    assert [counts(row)[:3] for row in rows] == [("sketch", 50, 20), ("folder", 50, 20)]
    assert [row["note"] for row in rows] == ["incomplete: 50 of 50889 images", "incomplete"]


def test_each_size_is_a_row(tmp_path: Path) -> None:
    paint_classes(tmp_path / "data", range(5), right=2)
    rows = rows_of(tmp_path, imagenet=tmp_path / "data", sizes=(32, 64))
    assert [row["img_size"] for row in rows] == [32, 64]
    assert [counts(row)[1:3] for row in rows] == [(5, 2)] * 2


def test_loading_processes(tmp_path: Path) -> None:
    """Where they are started by a server, as in Python 3.14, all that they need is pickled."""
    paint_classes(tmp_path / "folder", range(7))
    file = packed(tmp_path / "folder", tmp_path / "sketch.tar", "sketch")
    paths = [f"sketch/{wnids()[label]}/image_0.png" for label in range(7)]
    source = ImageSource(open_tree("sketch", file).open, painted_model().normal(32))
    source = pickle.loads(pickle.dumps(source))
    found = list(batches(source, paths, range(7), batch_size=3, workers=2, pinned=False))
    assert [batch.positions for batch in found] == [[0, 1, 2], [3, 4, 5], [6]]
    images = torch.cat([batch.images for batch in found if batch.images is not None])
    torch.testing.assert_close(images, torch.stack([source.load(path) for path in paths]))
    small = ImageSource(
        source.open, CorruptedPreprocess(32, (0, 0, 0), (1, 1, 1)), Corruption("fog", 1)
    )
    assert pickle.loads(pickle.dumps(small)).change == small.change
