"""`transnext evaluate detect` and `segment`: known answers give known rows, through the command."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dense_data.written_sets import DETECTION, SEGMENTATION, WITH_MASKS, coco_document
from dense_evaluation.answers import CLASSES, GivenAnswers, write_set
from dense_evaluation.conftest import Command
from transnext_models.dense_data.find import open_validation
from transnext_models.dense_data.reading import read_rgb
from transnext_models.dense_evaluation import run
from transnext_models.dense_evaluation.average_precision import average_precision
from transnext_models.dense_evaluation.mean_iou import mean_iou
from transnext_models.images import ImageError

pytest.importorskip("pycocotools")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data")
    write_set(place)
    return place


def use(monkeypatch: pytest.MonkeyPatch, subject: GivenAnswers) -> GivenAnswers:
    monkeypatch.setattr(run, "load_subject", lambda *_: subject)
    return subject


def rows_of(document: str) -> dict[str, dict[str, Any]]:
    return {row["metric"]: row for row in json.loads(document)["rows"]}


# -- perfect answers ------------------------------------------------------------------------------


def test_perfect_answers_give_one(
    transnext: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for task, metrics in (("detect", ["box AP", "mask AP"]), ("segment", ["mIoU"])):
        use(monkeypatch, GivenAnswers(data, task))
        code, out, err = transnext(
            *("evaluate", task, "--data", data, "--workers", 0, "--json", "--device", "cpu"),
            *("--output", tmp_path / f"{task}.csv"),
        )
        assert code == 0, err
        rows = rows_of(out)
        assert list(rows) == metrics
        for row in rows.values():
            assert (row["value"], row["images"], row["set"]) == (100.0, 19, data.name)
            assert row["published"] is None
            assert row["details"]["model_milliseconds"] > 0
        for suffix in (".csv", ".json", ".md"):
            assert (tmp_path / f"{task}{suffix}").is_file()
        assert not (tmp_path / f".{task}.csv.answers").exists()


@pytest.mark.parametrize("kind", DETECTION)
def test_any_format_of_objects(
    kind: str, transnext: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DETECTION[kind](tmp_path / "set")
    use(monkeypatch, GivenAnswers(tmp_path / "set", "detect"))
    code, out, err = transnext(
        *("evaluate", "detect", "--data", tmp_path / "set", "--workers", 0, "--json"),
        *("--output", tmp_path / "x.csv"),
    )
    assert code == 0, err
    metrics = ["box AP", "mask AP"] if kind in WITH_MASKS else ["box AP"]
    assert {metric: row["value"] for metric, row in rows_of(out).items()} == dict.fromkeys(
        metrics, 100.0
    )


@pytest.mark.parametrize("kind", SEGMENTATION)
def test_any_format_of_label_maps(kind: str, transnext: Command, tmp_path: Path) -> None:
    """Saved label maps that are the set's own."""
    SEGMENTATION[kind](tmp_path / "set")
    if kind == "ade20k":  # objectInfo150.txt of two classes names them
        names = ["apple", "pear"]
    annotated, _ = open_validation(tmp_path / "set", "segment")
    saved = tmp_path / "saved"
    saved.mkdir()
    for image in annotated.images:
        values = np.asarray(Image.open(image.label_file.path))
        if kind == "ade20k":  # a prediction has a class everywhere
            values = np.where(values == 0, 1, values)
        Image.fromarray(values).save(saved / f"{Path(image.path).stem}.png")
    code, out, err = transnext(
        *("evaluate", "segment", "mine", "--data", tmp_path / "set", "--predictions", saved),
        *("--json", "--output", tmp_path / "x.csv"),
    )
    assert code == 0, err
    row = rows_of(out)["mIoU"]
    assert (row["value"], row["model"], row["images"]) == (100.0, "mine", len(annotated))
    if kind == "ade20k":
        assert [entry["class"] for entry in row["details"]["per_class"]] == names


# -- answers that are wrong in a known way --------------------------------------------------------


def test_average_precision_by_hand(transnext: Command, tmp_path: Path) -> None:
    """The pear of image e is found; of the apple of d a part that overlaps by 0.6."""
    DETECTION["coco"](tmp_path)
    document = coco_document("val")
    [apple, pear] = document["annotations"]
    results = [
        {"image_id": 101, "category_id": 3, "score": 0.9, "bbox": [*apple["bbox"][:3], 38 * 0.6]},
        {"image_id": 102, "category_id": 17, "score": 0.2, "bbox": pear["bbox"]},
        # A wrong one that is surer than the right one: precision is 1/2 at every recall.
        {"image_id": 101, "category_id": 17, "score": 0.3, "bbox": pear["bbox"]},
    ]
    (tmp_path / "found.json").write_text(json.dumps(results))
    code, out, err = transnext(
        *("evaluate", "detect", "--data", tmp_path, "--predictions", tmp_path / "found.json"),
        *("--output", tmp_path / "x.csv", "--json"),
    )
    assert code == 0, err
    row = rows_of(out)["box AP"]
    # The apple counts at 0.5, 0.55 and 0.6 of ten thresholds; the pear's 1/2 at all.
    assert row["value"] == pytest.approx(100 * (0.3 + 0.5) / 2, abs=1e-3)
    assert row["details"]["ap50"] == pytest.approx(100 * (1 + 0.5) / 2, abs=1e-3)
    assert row["details"]["ap75"] == pytest.approx(100 * (0 + 0.5) / 2, abs=1e-3)
    per_class = {entry["class"]: entry["value"] for entry in row["details"]["per_class"]}
    assert per_class == pytest.approx({"apple": 30, "pear": 50}, abs=1e-3)


def test_mean_iou_by_hand(transnext: Command, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
    for split, name in (("train", "t"), ("val", "a"), ("val", "b")):
        pixels = np.zeros((2, 4, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / split / "images" / f"{name}.png")
    labels = {
        "t": [[0, 1, 2, 0], [0, 0, 0, 0]],
        "a": [[0, 0, 1, 1], [0, 0, 1, 255]],
        "b": [[2, 2, 2, 2], [0, 0, 0, 0]],
    }
    answers = {"a": [[0, 0, 1, 1], [0, 1, 1, 2]], "b": [[2, 2, 2, 0], [0, 0, 0, 0]]}
    (tmp_path / "saved").mkdir()
    for name, values in labels.items():
        split = "train" if name == "t" else "val"
        Image.fromarray(np.array(values, np.uint8)).save(tmp_path / split / "masks" / f"{name}.png")
    for name, values in answers.items():
        Image.fromarray(np.array(values, np.uint8)).save(tmp_path / "saved" / f"{name}.png")
    code, out, err = transnext(
        *("evaluate", "segment", "--data", tmp_path, "--predictions", tmp_path / "saved"),
        *("--output", tmp_path / "x.csv", "--json"),
    )
    assert code == 0, err
    row = rows_of(out)["mIoU"]
    # Sums over both images: class 0 has 7 of 8 + 1; class 1 has 3 of 3 + 1; class 2 has 3 of 4.
    assert row["value"] == pytest.approx(100 * (7 / 9 + 3 / 4 + 3 / 4) / 3, abs=1e-4)
    assert row["details"]["aacc"] == pytest.approx(100 * 13 / 15, abs=1e-4)


# -- rows, files and what is there already --------------------------------------------------------


def test_rows_are_the_scores_of_the_answers(
    transnext: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = use(monkeypatch, GivenAnswers(data, "detect", moved=2))
    saved = tmp_path / "found" / "objects.json"
    arguments = ("evaluate", "detect", "--data", data, "--workers", 0, "--device", "cpu", "--json")
    output = ("--output", tmp_path / "x.csv")
    code, out, _ = transnext(*arguments, *output, "--save-predictions", saved)
    assert code == 0
    annotated, _ = open_validation(data, "detect")
    found = [
        subject.answer(image).found
        for image in run.answer_images.__globals__["loaded_images"](
            annotated.images, range(len(annotated)), subject.scales, CLASSES, 0
        )
    ]
    rows = rows_of(out)
    for metric, kind in (("box AP", "bbox"), ("mask AP", "segm")):
        score = average_precision(annotated, found, kind)
        assert 0 < score.ap < 1
        assert rows[metric]["value"] == round(100 * score.ap, 4)
        recall = {"100": score.recall[0], "300": score.recall[1], "1000": score.recall[2]}
        assert rows[metric]["details"]["recall"] == {
            most: round(100 * value, 4) for most, value in recall.items()
        }

    # What is saved has the file's category ids and gives the same scores.
    entries = json.loads(saved.read_text())
    assert {entry["category_id"] for entry in entries} <= {2, 7, 12}
    code, out, _ = transnext(
        *("evaluate", "detect", "again", "--data", data, "--predictions", saved, "--json", *output)
    )
    again = rows_of(out)
    assert code == 0
    for metric, row in again.items():
        assert row["value"] == rows[metric]["value"]
        assert row["details"]["per_class"] == rows[metric]["details"]["per_class"]

    # What is there is not measured again, unless its predictions are wanted and gone.
    subject.seen.clear()
    code, out, _ = transnext(*arguments, *output, "--save-predictions", saved)
    assert (code, subject.seen) == (0, [])
    assert rows_of(out) == rows
    saved.unlink()
    assert transnext(*arguments, *output, "--save-predictions", saved)[0] == 0
    assert len(subject.seen) == 19
    with (tmp_path / "x.csv").open(newline="") as lines:
        assert [row["model"] for row in csv.DictReader(lines)] == ["told"] * 2 + ["again"] * 2


def test_label_maps_are_saved_as_the_set_counts(
    transnext: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = use(monkeypatch, GivenAnswers(data, "segment", moved=3))
    saved, output = tmp_path / "maps", ("--output", tmp_path / "x.csv", "--json")
    asked = ("evaluate", "segment", "--data", data)
    code, out, err = transnext(*asked, *output, "--workers", 0, "--save-predictions", saved)
    assert code == 0, err
    assert len(list(saved.iterdir())) == 19
    again = transnext(*asked, "--predictions", saved, *output)
    assert again[0] == 0
    first, second = rows_of(out)["mIoU"], rows_of(again[1])["mIoU"]
    assert 0 < first["value"] < 100
    assert (first["value"], first["details"]["macc"]) == (
        second["value"],
        second["details"]["macc"],
    )
    annotated, _ = open_validation(data, "segment")
    loaded = run.answer_images.__globals__["loaded_images"]
    images = loaded(annotated.images, range(19), subject.scales, CLASSES, 0)
    score = mean_iou([subject.answer(image).found for image in images])
    assert first["value"] == round(100 * score.miou, 4)


def test_a_table_for_people(
    transnext: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, GivenAnswers(data, "detect"))
    code, out, err = transnext(
        *("evaluate", "detect", "--data", data, "--workers", 0, "--limit", 4),
        *("--output", tmp_path / "x.csv"),
    )
    assert code == 0
    assert "first 4 of 19 images" in out
    assert "told abababab" in out
    assert "ms each in the model" in err
    assert "first 4 of 19 images" in (tmp_path / "x.md").read_text()


def test_a_limit_counts_only_those_images(
    transnext: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of saved predictions, which may be of more."""
    subject = use(monkeypatch, GivenAnswers(data, "detect", moved=2))
    saved = tmp_path / "all.json"
    asked = ("evaluate", "detect", "--data", data, "--json")
    run_all = (*asked, "--workers", 0, "--output", tmp_path / "whole.csv")
    code, _, err = transnext(*run_all, "--save-predictions", saved)
    assert code == 0, err
    subject.seen.clear()
    output = ("--output", tmp_path / "x.csv", "--limit", 5)
    code, out, _ = transnext(*asked, *output, "--workers", 0)
    assert (code, subject.seen) == (0, [1, 2, 3, 4, 5])
    again = transnext(*asked, *output, "--predictions", saved)
    assert again[0] == 0
    assert rows_of(again[1])["box AP"]["value"] == rows_of(out)["box AP"]["value"]


# -- as downloaded --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize("top", ["val2017/", ""])
def test_images_in_the_archive_of_a_download(
    suffix: str,
    top: str,
    transnext: Command,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "coco"
    shutil.copytree(data / "annotations", root / "annotations")
    archive = root / f"val2017{suffix}"
    files = sorted((data / "val2017").iterdir())
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
            for file in files:
                zipped.write(file, f"{top}{file.name}")
    else:
        with tarfile.open(archive, "w") as tar:
            for file in files:
                tar.add(file, f"{top}{file.name}")
    told = use(monkeypatch, GivenAnswers(data, "detect"))
    asked = ("evaluate", "detect", "--json", "--device", "cpu")
    explicit = ("--images", archive, "--annotations", root / "annotations/instances_val2017.json")
    for number, place in enumerate((("--data", root, "--workers", 2), (*explicit, "--workers", 0))):
        code, out, err = transnext(*asked, *place, "--output", tmp_path / f"{number}.csv")
        assert code == 0, err
        assert {row["value"] for row in rows_of(out).values()} == {100.0}
    assert len(told.seen) == 2 * 19
    pixels = read_rgb(str(archive / "003.png"), (40, 60))
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(data / "val2017" / "003.png")))


def test_archives_that_are_damaged(transnext: Command, data: Path, tmp_path: Path) -> None:
    root = tmp_path / "coco"
    shutil.copytree(data / "annotations", root / "annotations")
    (root / "val2017.zip").write_bytes(b"PK no zip")
    asked = ("evaluate", "detect", "--data", root, "--json", "--output", tmp_path / "x.csv")
    code, out, _ = transnext(*asked)
    assert code == 1
    assert "val2017.zip: cannot be read as an archive" in json.loads(out)["error"]
    with zipfile.ZipFile(root / "val2017.zip", "w") as zipped:
        zipped.write(data / "val2017" / "001.png", "001.png")
    code, out, _ = transnext(*asked)
    assert code == 1
    assert "18 of 19 images are missing" in json.loads(out)["error"]
    with pytest.raises(ImageError, match=r"val2017\.zip/002\.png: no such file in the archive"):
        read_rgb(str(root / "val2017.zip" / "002.png"), None)
