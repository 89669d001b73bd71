"""Broken annotations: an error that names file and entry, or a treatment that is counted."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dense_data.written_sets import (
    DETECTION,
    HEIGHT,
    WIDTH,
    coco_document,
    voc_xml,
    write_images,
)
from transnext_models.dense_data.coco import read_coco
from transnext_models.dense_data.errors import AnnotationError
from transnext_models.dense_data.find import open_annotations
from transnext_models.dense_data.reading import read_sample
from transnext_models.dense_data.records import AnnotatedSet
from transnext_models.dense_data.voc import read_voc

Change = Callable[[dict[str, Any]], None]


def coco_with(folder: Path, change: Change) -> AnnotatedSet:
    """Read COCO's training split after `change` of its document."""
    write_images(folder, "abc")
    document = coco_document("train")
    change(document)
    file = folder / "train.json"
    file.write_text(json.dumps(document))
    return read_coco(file, folder)


def first(key: str, **values: Any) -> Change:
    return lambda document: document[key][0].update(values)


BROKEN: dict[str, tuple[Change, str]] = {
    "no images": (lambda d: d.pop("images"), "has no 'images'"),
    "no categories": (lambda d: d.pop("categories"), "has no 'categories'"),
    "images no list": (lambda d: d.update(images={"id": 1}), r"images: got dict, needs a list"),
    "image no object": (lambda d: d["images"].insert(1, 7), r"images\[1\]: got int"),
    "image without id": (first("images", id=None), r"images\[0\]: id: got None"),
    "image without name": (first("images", file_name=""), r"images\[0\]: file_name: got ''"),
    "image without height": (first("images", height="40"), r"images\[0\]: height, width: got"),
    "two images of an id": (first("images", id=102), r"images\[1\]: id 102 is there twice"),
    "category id as text": (first("categories", id="3"), r"categories\[0\]: id: got '3'"),
    "two categories of an id": (first("categories", id=3), r"categories\[1\]: id 3 is there twice"),
    "unknown category": (first("annotations", category_id=5), r"annotations\[0\]: category_id 5"),
    "no category": (first("annotations", category_id=None), r"annotations\[0\]: category_id: got"),
    "box of three": (first("annotations", bbox=[1, 2, 3]), r"annotations\[0\]: bbox: got"),
    "box of text": (first("annotations", bbox=[1, 2, "3", 4]), r"annotations\[0\]: bbox: got"),
    "box not finite": (first("annotations", bbox=[1, 2, float("nan"), 4]), r"bbox: got"),
    "box beyond floats": (first("annotations", bbox=[1, 2, 10**400, 4]), r"bbox: got"),
    "area of text": (first("annotations", area="big"), r"annotations\[0\]: area: got 'big'"),
    "crowd of two": (first("annotations", iscrowd=2), r"annotations\[0\]: iscrowd: got 2"),
    "outline of two points": (
        first("annotations", segmentation=[[1, 2, 3, 4]]),
        r"annotations\[0\]: segmentation: polygon 0: got 4 numbers",
    ),
    "outline of text": (
        first("annotations", segmentation=[["a"] * 6]),
        r"annotations\[0\]: segmentation: polygon 0: needs finite numbers",
    ),
    "outline nested": (
        first("annotations", segmentation=[[[1, 2]] * 6]),
        r"annotations\[0\]: segmentation: polygon 0: needs finite numbers",
    ),
    "mask of another size": (
        first("annotations", segmentation={"size": [9, 9], "counts": [81]}),
        r"annotations\[0\]: segmentation: mask: got size \[9, 9\], needs the image's \[40, 60\]",
    ),
    "mask that does not fill": (
        first("annotations", segmentation={"size": [40, 60], "counts": [5, 5]}),
        r"mask: got counts that do not add up to its 2400 pixels",
    ),
    "mask of negative counts": (
        first("annotations", segmentation={"size": [40, 60], "counts": [-5, 2405]}),
        r"mask: got counts that do not add up",
    ),
    "mask of huge counts": (
        first("annotations", segmentation={"size": [40, 60], "counts": [10**30]}),
        r"mask: got counts that do not add up",
    ),
    "mask of strange text": (
        first("annotations", segmentation={"size": [40, 60], "counts": "\x7f\x00"}),
        r"mask: got counts that are no packed run lengths",
    ),
    "mask of endless text": (
        first("annotations", segmentation={"size": [40, 60], "counts": "o" * 1000}),
        r"mask: got counts that are no packed run lengths",
    ),
    "mask of a number": (first("annotations", segmentation=5), r"segmentation: got int"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_entry_is_named(name: str, tmp_path: Path) -> None:
    change, message = BROKEN[name]
    with pytest.raises(AnnotationError, match=message) as caught:
        coco_with(tmp_path, change)
    assert caught.value.file == str(tmp_path / "train.json")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "line 1 column 1: no JSON"),
        (b"[]", "no JSON"),
        (b'{"images": [}', "line 1 column 13: no JSON"),
        (b'{"info": {"year": 1}', "no JSON"),
        (b'{"images": []} x', "no JSON"),
        (b'{"images": [], "images": []}', "key 'images': is there twice"),
        (b'{"images": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"info": ' + b'{"a":' * 100_000, "nested too deeply"),
        (b'{"images": [{"id": ' + b"9" * 10_000 + b"}]}", "digits"),
        (b"\xff\xfe{}", "byte 0: is no UTF-8 text"),
        (b"{}", "has no 'images'"),
    ],
)
def test_a_file_that_is_no_coco_json(text: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(text)
    with pytest.raises(AnnotationError, match=message) as caught:
        read_coco(file, tmp_path)
    assert caught.value.file == str(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"none\.json: cannot be read \(No such file"):
        read_coco(tmp_path / "none.json", tmp_path)


def test_what_is_treated_is_counted(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        entry = document["annotations"][0]
        for values in (
            {"bbox": [-5, 5, 20, 20]},
            {"bbox": [100, 5, 20, 20]},
            {"bbox": [5, 5, 0.5, 20]},
            {"bbox": [5, 5, -3, 20]},
            {"image_id": 999},
            {"ignore": 1},
            {"bbox": None},
            {"iscrowd": 1, "segmentation": {"size": [40, 60], "counts": [0, 2400]}},
        ):
            document["annotations"].append({**entry, **values})

    annotated = coco_with(tmp_path, change)
    counted = {text: one.count for text, one in annotated.report.treatments.items()}
    assert counted == {
        "objects are marked to be ignored: left out": 1,
        "objects have no box: taken from their outline": 1,
        "boxes reach beyond their image: clipped in training": 1,
        "boxes lie outside their image: not trained on": 1,
        "boxes have a side under one pixel: not trained on": 2,
        "objects are of images that the file does not list: left out": 1,
    }
    objects = annotated.images[0].objects
    # All but what was left out is there, for evaluation; the rest can be trained on.
    assert len(objects) == 8
    trained = objects.trainable((HEIGHT, WIDTH)).tolist()
    assert trained == [True, True, True, False, False, False, True, False]
    assert objects.boxes[6].tolist() == [5, 10, 20, 30]
    lines = annotated.report.lines()
    assert "1 boxes lie outside their image: not trained on (annotations[4])" in lines


def test_images_that_are_missing(tmp_path: Path) -> None:
    DETECTION["coco"](tmp_path)
    (tmp_path / "train2017" / "b.png").unlink()
    with pytest.raises(AnnotationError, match=r"1 of 3 images are missing: .*b\.png"):
        open_annotations(tmp_path, "detect")
    train = open_annotations(tmp_path, "detect", allow_missing=True).train
    assert [Path(image.path).stem for image in train.images] == ["a", "c"]
    assert train.report.count("missing") == 1


def test_boxes_without_masks(tmp_path: Path) -> None:
    annotated = coco_with(tmp_path, lambda d: [a.pop("segmentation") for a in d["annotations"]])
    assert not annotated.has_masks
    assert read_sample(annotated.images[0], for_training=True).masks is None
    with pytest.raises(AnnotationError, match="has a box without a mask"):
        read_sample(annotated.images[0], for_training=True, with_masks=True)


def test_an_outline_far_outside_costs_nothing(tmp_path: Path) -> None:
    far = [[-1e12, -1e12, 1e12, -1e12, 1e12, 1e12, -1e12, 1e12]]
    annotated = coco_with(tmp_path, first("annotations", segmentation=far))
    masks = read_sample(annotated.images[0], for_training=True, with_masks=True).masks
    assert masks[0].all()


# -- YOLO and Pascal VOC -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", "line 1: got 3 numbers"),
        ("0 0.5 0.5 0.1 nan", "line 1: got '0 0.5 0.5 0.1 nan', needs finite numbers"),
        ("apple 0.5 0.5 0.1 0.1", "line 1: got 'apple"),
        ("2 0.5 0.5 0.1 0.1", "line 1: got class 2, needs 0…1"),
        ("0.5 0.5 0.5 0.1 0.1", "line 1: got class 0.5"),
        ("0 0.5 0.5 0.1 0.1 0.9", "line 1: got 5 numbers"),
    ],
)
def test_a_broken_line_of_yolo(line: str, message: str, tmp_path: Path) -> None:
    DETECTION["yolo"](tmp_path)
    (tmp_path / "labels" / "train" / "a.txt").write_text(line)
    with pytest.raises(AnnotationError, match=message) as caught:
        open_annotations(tmp_path, "detect")
    assert caught.value.file.endswith("a.txt")


def test_what_yolo_treats_is_counted(tmp_path: Path) -> None:
    DETECTION["yolo"](tmp_path)
    labels = tmp_path / "labels" / "train"
    (labels / "a.txt").write_text("0 0.9 0.5 0.4 0.1\n\n")
    (labels / "z.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    train = open_annotations(tmp_path, "detect").train
    assert train.report.count("reach beyond") == 1
    assert train.report.count("files of labels have no image") == 1
    assert train.report.count("images have no file of labels: taken as empty") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a\ntrain: x", "no YAML"),
        ("names: 5\ntrain: x", "names: needs a list"),
        ("names: [a, b]\nnc: 3\ntrain: x", "nc: got 3, needs 2"),
        ("names: {0: a, 2: b}\ntrain: x", "names: needs the numbers 0…1"),
        ("names: [apple, pear]\ntrain: nowhere\nval: images/val", "train: got nowhere"),
        ("names: [apple, pear]\ntrain: images/train", "val: is not there"),
    ],
)
def test_a_broken_description_of_yolo(text: str, message: str, tmp_path: Path) -> None:
    DETECTION["yolo"](tmp_path)
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(AnnotationError, match=message):
        open_annotations(tmp_path, "detect")


LAUGHS = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;&b;&b;">]>'
OTHER_FILE = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>'
SIZE = "<size><height>40</height><width>60</width></size>"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS + "<annotation>&c;</annotation>", "entity b: entities are not read"),
        (OTHER_FILE + "<annotation>&b;</annotation>", "entity b: entities are not read"),
        ("<annotation>", r"line 1 column 13: no XML \(no element found\)"),
        ("", "no XML"),
        ("<a>" * 1000, "is nested over 100 deep"),
        ("<annotation></annotation>", "size: a number: got None"),
        (f"<annotation>{SIZE.replace('40', '0')}</annotation>", "size: got"),
        (voc_xml("a", [(0, 5, 5, 9, 9)]).replace("apple", "plum"), "object 0: name: got 'plum'"),
        (voc_xml("a", [(0, 5, 5, 9, 9)]).replace("bndbox", "box"), "object 0: has no bndbox"),
        (voc_xml("a", [(0, 5, 5, 9, 9)]).replace(">6<", ">inf<"), "object 0: xmin: got 'inf'"),
        (voc_xml("a", [(0, 20, 5, 9, 9)]), "object 0: bndbox: got"),
    ],
)
def test_a_broken_file_of_voc(text: str, message: str, tmp_path: Path) -> None:
    write_images(tmp_path, "a")
    file = tmp_path / "a.xml"
    file.write_text(text)
    with pytest.raises(AnnotationError, match=message) as caught:
        read_voc([file], tmp_path, ("apple", "pear"))
    assert caught.value.file == str(file)


def test_difficult_objects_are_kept_for_evaluation_only(tmp_path: Path) -> None:
    write_images(tmp_path, "a")
    text = voc_xml("a", [(0, 5, 5, 9, 9), (1, 0, 0, 9, 9)])
    (tmp_path / "a.xml").write_text(text.replace(">0</difficult>", ">1</difficult>", 1))
    annotated = read_voc([tmp_path / "a.xml"], tmp_path, ("apple", "pear"))
    objects = annotated.images[0].objects
    assert objects.trainable((HEIGHT, WIDTH)).tolist() == [False, True]
    assert annotated.report.count("difficult") == 1


# -- folders -----------------------------------------------------------------------------------


def test_a_folder_that_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--data: .* holds none of COCO JSON"):
        open_annotations(tmp_path, "detect")
    with pytest.raises(ValueError, match="mask images with a class for each pixel"):
        open_annotations(tmp_path, "segment")
    with pytest.raises(ValueError, match=r"--data: got .*nowhere, needs a folder"):
        open_annotations(tmp_path / "nowhere", "detect")


def test_a_split_that_is_missing(tmp_path: Path) -> None:
    DETECTION["coco"](tmp_path)
    (tmp_path / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(AnnotationError, match="has one split, needs 'val' too"):
        open_annotations(tmp_path, "detect")


def test_splits_of_different_classes(tmp_path: Path) -> None:
    DETECTION["coco"](tmp_path)
    file = tmp_path / "annotations" / "instances_val2017.json"
    file.write_text(file.read_text().replace("pear", "plum"))
    with pytest.raises(AnnotationError, match=r"has other classes than .*: pear, plum"):
        open_annotations(tmp_path, "detect")


def test_two_images_that_differ_in_their_suffix(tmp_path: Path) -> None:
    DETECTION["yolo"](tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "train" / "a.jpg")
    with pytest.raises(AnnotationError, match=r"has the name of a\.jpg but for its suffix"):
        open_annotations(tmp_path, "detect")
