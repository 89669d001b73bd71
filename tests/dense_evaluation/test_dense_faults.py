"""Broken input through the command: an error that names file and entry, or the stated treatment."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dense_data.written_sets import DETECTION, HEIGHT, SEGMENTATION, WIDTH, save_palette
from dense_evaluation.answers import GivenAnswers
from dense_evaluation.conftest import Command
from transnext_models.dense_evaluation import run

pytest.importorskip("pycocotools")

Change = Callable[[dict[str, Any]], None]


@dataclass
class Evaluated:
    """A small set, the model that is given its answers, and the command that evaluates it."""

    transnext: Command
    task: str
    root: Path
    told: GivenAnswers

    def __call__(self, *options: object) -> tuple[int, Any, str]:
        """Return the exit code, the document of ``--json``, and standard error."""
        code, out, err = self.transnext(
            *("evaluate", self.task, "--data", self.root, "--workers", 0, "--json", *options),
            *("--output", self.table),
        )
        return code, json.loads(out), err

    @property
    def table(self) -> Path:
        return self.root.parent / "x.csv"

    def rewrite(self, change: Change) -> None:
        file = self.root / "annotations" / "instances_val2017.json"
        document = json.loads(file.read_text())
        change(document)
        file.write_text(json.dumps(document))


Build = Callable[[str, Callable[[Path], None]], Evaluated]


@pytest.fixture
def evaluated(transnext: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    def build(task: str, write: Callable[[Path], None]) -> Evaluated:
        write(tmp_path / "set")
        told = GivenAnswers(tmp_path / "set", task)
        done = Evaluated(transnext, task, tmp_path / "set", told)
        monkeypatch.setattr(run, "load_subject", lambda *_: done.told)
        return done

    return build


@pytest.fixture
def detect(evaluated: Build) -> Evaluated:
    return evaluated("detect", DETECTION["coco"])


@pytest.fixture
def segment(evaluated: Build) -> Evaluated:
    done = evaluated("segment", SEGMENTATION["palette_maps"])
    done.told.num_classes = 3
    return done


def entry(**values: object) -> Change:
    return lambda document: document["annotations"][0].update(values)


BROKEN: dict[str, tuple[Change, str]] = {
    "no box": (entry(bbox=[1, 2, 3]), "annotations[0]: bbox: got [1, 2, 3], needs 4 finite"),
    "box of text": (entry(bbox=["a", 0, 1, 1]), "annotations[0]: bbox"),
    "no such class": (entry(category_id=99), "annotations[0]: category_id 99 is in no category"),
    "mask of another size": (
        entry(segmentation={"size": [4, 4], "counts": [16]}),
        "annotations[0]: segmentation: mask: got size [4, 4], needs the image's [40, 60]",
    ),
    "an id twice": (lambda d: d["images"][1].update(id=101), "images[1]: id 101 is there twice"),
    "no lists": (lambda d: d.pop("categories"), "has no 'categories'"),
    "image of another size": (
        lambda d: d["images"][0].update(height=41),
        "d.png: is 40×60, its annotations are for 41×60 (height×width)",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_annotations_are_named(name: str, detect: Evaluated) -> None:
    change, message = BROKEN[name]
    detect.rewrite(change)
    code, out, err = detect()
    assert code == 1
    assert message in out["error"]
    assert message in " ".join(err.split())
    file = "d.png" if name == "image of another size" else "instances_val2017.json"
    assert file in err
    assert not detect.table.exists()


def test_what_is_treated_is_said_and_nothing_is_lost(detect: Evaluated) -> None:
    """Boxes that reach or lie outside still count as objects; so does an image without any."""

    def change(document: dict[str, Any]) -> None:
        beyond, outside = dict(document["annotations"][0]), dict(document["annotations"][1])
        beyond |= {"id": 8, "bbox": [50, 30, 40, 40], "area": 1600, "segmentation": None}
        outside |= {"id": 9, "bbox": [100, 100, 10, 10], "area": 100, "segmentation": None}
        strange = dict(document["annotations"][0]) | {"id": 10, "image_id": 7}
        document["annotations"] += [beyond, outside, strange]
        document["images"].append(
            {"id": 103, "file_name": "empty.png", "height": HEIGHT, "width": WIDTH}
        )

    detect.rewrite(change)
    Image.new("RGB", (WIDTH, HEIGHT)).save(detect.root / "val2017" / "empty.png")
    detect.told = GivenAnswers(detect.root, "detect")
    code, out, err = detect()
    assert code == 0, err
    (row,) = out["rows"]  # a box without a mask: no average precision of masks
    assert (row["metric"], row["value"], row["images"]) == ("box AP", 100.0, 3)
    remarks = " ".join(err.split())
    assert "1 boxes reach beyond their image" in remarks
    assert "1 boxes lie outside their image" in remarks
    assert "1 objects are of images that the file does not list: left out" in remarks


def test_images_that_are_missing(detect: Evaluated) -> None:
    (detect.root / "val2017" / "e.png").unlink()
    code, out, _ = detect()
    assert code == 1
    assert "1 of 2 images are missing" in out["error"]
    assert "e.png" in out["error"]
    code, out, err = detect("--allow-incomplete")
    assert code == 0
    assert {row["note"] for row in out["rows"]} == {"incomplete: 1 of 2 images"}
    assert "e.png" in err


def test_unreadable_images_are_all_named(detect: Evaluated) -> None:
    for name in ("d", "e"):
        (detect.root / "val2017" / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    code, document, err = detect()
    assert code == 1
    assert document["rows"] == []
    for name in ("d.png", "e.png"):
        assert name in document["error"]
        assert name in err


def test_a_photograph_turned_by_exif(detect: Evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
    """The annotated size says whether the boxes are for the image as stored or upright."""
    shapes = []
    answer = detect.told.answer

    def seen(image: Any) -> Any:
        shapes.append(image.size)
        return answer(image)

    monkeypatch.setattr(detect.told, "answer", seen)
    for name, size in (("d", (WIDTH, HEIGHT)), ("e", (HEIGHT, WIDTH))):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", size).save(detect.root / "val2017" / f"{name}.png", exif=exif)
    code, out, err = detect()
    assert code == 0, err
    assert {row["value"] for row in out["rows"]} == {100.0}
    assert shapes == [(HEIGHT, WIDTH)] * 2


def test_a_model_of_other_classes(detect: Evaluated) -> None:
    detect.told.num_classes = 80
    code, out, _ = detect()
    assert code == 1
    assert "model: told has 80 classes" in out["error"]
    assert "instances_val2017.json has 2" in out["error"]


def test_an_output_that_is_not_finite(detect: Evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(image: Any) -> None:
        raise FloatingPointError("the model's output for it is not finite")

    monkeypatch.setattr(detect.told, "answer", broken)
    code, out, _ = detect()
    assert code == 1
    assert "image 101: the model's output for it is not finite" in out["error"]


SAVED: dict[str, tuple[Any, str]] = {
    "no list": ({"a": 1}, "found.json: got dict, needs a list of results"),
    "unknown image": ([{"image_id": 5}], "entry 0: image_id 5 is no image of the set"),
    "unknown class": (
        [{"image_id": 101, "category_id": 4}],
        "entry 0: category_id 4 is no class of the set",
    ),
    "broken box": (
        [{"image_id": 101, "category_id": 3, "bbox": [1, 2, 3, None], "score": 1}],
        "entry 0: bbox: got [1, 2, 3, None], needs 4 finite numbers",
    ),
    "no score": (
        [{"image_id": 101, "category_id": 3, "bbox": [1, 2, 3, 4]}],
        "entry 0: score: got None, needs a finite number",
    ),
    "mask of another size": (
        [
            {
                "image_id": 101, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 1,
                "segmentation": {"size": [2, 2], "counts": [4]},
            }
        ],
        "entry 0: segmentation: mask: got size [2, 2], needs the image's [40, 60]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAVED)
def test_broken_predictions_are_named(name: str, detect: Evaluated, tmp_path: Path) -> None:
    results, message = SAVED[name]
    (tmp_path / "found.json").write_text(json.dumps(results))
    code, out, err = detect("--predictions", tmp_path / "found.json")
    assert code == 1
    assert message in out["error"]
    assert "found.json" in err


def test_label_maps_that_are_broken(segment: Evaluated) -> None:
    good = (segment.root / "masks" / "val" / "d.png").read_bytes()
    unknown = np.zeros((HEIGHT, WIDTH), np.uint8)
    unknown[4, 7] = 9
    for values, message in (
        (np.zeros((5, 5), np.uint8), "d.png: is 40×60, its annotations are for 5×5"),
        (unknown, "d.png: pixel at row 4, column 7: got class 9, the last is 2"),
    ):
        save_palette(values, segment.root / "masks" / "val" / "d.png")
        code, out, _ = segment()
        assert code == 1
        assert message in out["error"]
    (segment.root / "masks" / "val" / "d.png").write_bytes(good)
    code, out, err = segment()
    assert code == 0, err
    assert out["rows"][0]["value"] == 100.0
    (segment.root / "masks" / "val" / "e.png").unlink()
    code, out, _ = segment()
    assert code == 1
    assert "has no mask for 1 names: e" in out["error"]


def test_saved_label_maps_that_are_broken(segment: Evaluated, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    for name in ("d", "e"):
        save_palette(np.zeros((HEIGHT, WIDTH), np.uint8), saved / f"{name}.png")
    save_palette(np.zeros((3, 3), np.uint8), saved / "e.png")
    code, out, _ = segment("--predictions", saved)
    assert code == 1
    assert f"{saved / 'e.png'}: prediction: got (3, 3)" in out["error"]
    save_palette(np.full((HEIGHT, WIDTH), 255, np.uint8), saved / "e.png")
    code, out, _ = segment("--predictions", saved)
    assert (code, f"{saved / 'e.png'}" in out["error"]) == (1, True)
    (saved / "e.png").unlink()
    code, out, _ = segment("--predictions", saved)
    assert (code, f"{saved / 'e.png'}" in out["error"]) == (1, True)


OPTIONS = [
    (("detect",), "data: got no data, needs a folder, or images and annotations"),
    (("segment",), "data: got no data, needs a folder"),
    (("detect", "--images", "x"), "images, annotations: got one of them, needs both"),
    (("segment", "--data", ".", "--mode", "half"), "mode: got 'half', needs one of published"),
    (("detect", "--data", ".", "--precision", "int8"), "precision: got 'int8'"),
    (("detect", "--data", ".", "--save-predictions", "x.txt"), "needs a name that ends in .json"),
    (("detect", "--data", ".", "--save-predictions", "detection.json"), "needs another name"),
    (("detect", "--data", ".", "--predictions", "x", "--weights", "y"), "which no model makes"),
    (("detect", "--data", ".", "--limit", "0"), "limit"),
]


@pytest.mark.parametrize(("arguments", "message"), OPTIONS)
def test_options_that_do_not_go(
    arguments: tuple[str, ...], message: str, transnext: Command
) -> None:
    code, out, _ = transnext("evaluate", *arguments, "--json")
    assert code == 2
    text = json.loads(out)["error"].replace("--", "").replace("-", "_").replace("/", ", ")
    assert message.replace("-", "_") in text


def test_data_that_is_not_there(detect: Evaluated, tmp_path: Path) -> None:
    detect.root = tmp_path / "none"
    code, out, _ = detect()
    assert code == 1
    assert "none, needs a folder" in out["error"]
    detect.root = tmp_path / "empty"
    detect.root.mkdir()
    code, out, _ = detect()
    assert code == 1
    assert "empty holds none of COCO JSON" in out["error"]
