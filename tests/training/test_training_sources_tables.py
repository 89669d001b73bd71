"""CSV files of paths and labels: one label of an image, or several; what is wrong has its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from transnext_models.classification.preprocess import Preprocess
from transnext_models.training.data import ImageData
from transnext_models.training.recipes import get_recipe
from transnext_models.training.sources import Splits, open_splits

PREPROCESS = Preprocess(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FILES = ("a.png", "b.png", "sub/c.png", "d.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for index, name in enumerate(FILES):
        Image.new("RGB", (32, 32), (40 * index, 0, 0)).save(tmp_path / name)
    return tmp_path


def table(folder: Path, text: str, name: str = "images.csv", encoding: str = "utf-8") -> str:
    (folder / name).write_text(text, encoding=encoding, newline="")
    return str(folder / name)


def rows(images: Any) -> list[tuple[Any, str]]:
    return [
        (label.tolist() if isinstance(label, torch.Tensor) else label, Path(name).name)
        for _, label, name in images
    ]


def both(splits: Splits) -> list[list[tuple[Any, str]]]:
    return [rows(splits.train), rows(splits.val)]


ONE_LABEL = [[(0, "b.png"), (1, "a.png"), (1, "c.png")], [(0, "b.png"), (1, "d.png")]]


@pytest.mark.parametrize(
    "text",
    [
        "path,label,split\na.png,cat,train\nsub/c.png,cat,train\nb.png,ant,train\nd.png,cat,val\n"
        "{folder}/b2.png,ant,validation\n",
        "split,label,path\r\ntrain,cat,a.png\r\ntrain,cat,sub/c.png\r\ntrain,ant,b.png\r\n"
        '"val"," cat ","d.png"\r\n\r\nVAL,ant,b2.png',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_one_table_with_splits(folder: Path, text: str, encoding: str) -> None:
    Image.new("RGB", (32, 32)).save(folder / "b2.png")
    splits = open_splits(table(folder, text.replace("{folder}", str(folder)), encoding=encoding))
    assert splits.train.class_names == ("ant", "cat")
    assert str(both(splits)).replace("b2", "b") == str(ONE_LABEL)


def test_two_tables(folder: Path) -> None:
    train = table(folder, "path,label\na.png,cat\nsub/c.png,cat\nb.png,ant\n", "train.csv")
    val = table(folder, "path,label\nd.png,cat\nb.png,ant\n", "val.csv")
    assert both(open_splits(train, val=val)) == ONE_LABEL
    assert both(open_splits(str(folder))) == ONE_LABEL  # by their usual names, in their folder
    data = ImageData(str(folder), get_recipe("imagenet_224"), PREPROCESS, 2, 0, 0)
    assert data.num_classes == 2


def test_paths_can_start_from_another_folder(folder: Path, tmp_path_factory: Any) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    text = "path,label,split\na.png,x,train\nd.png,x,val\n"
    assert both(open_splits(table(elsewhere, text), root=folder)) == [
        [(0, "a.png")],
        [(0, "d.png")],
    ]
    with pytest.raises(
        ValueError, match=r"there is no .*elsewhere.*/a.png; paths start from the ta"
    ):
        open_splits(table(elsewhere, text))


def test_numbers_are_labels_themselves(folder: Path) -> None:
    """Also where some are missing, and where one split has fewer."""
    text = "path,label,split\na.png,10,train\nb.png,2,train\nsub/c.png,002,train\nd.png,7,val\n"
    splits = open_splits(table(folder, text))
    assert both(splits) == [[(2, "b.png"), (2, "c.png"), (10, "a.png")], [(7, "d.png")]]
    assert splits.train.num_classes is None
    data = ImageData(table(folder, text), get_recipe("imagenet_224"), PREPROCESS, 2, 0, 0)
    data.enable_mixup(11)
    with pytest.raises(
        ValueError, match=r"--num-classes: got 10, needs at least 11, since .*a\.png"
    ):
        data.enable_mixup(10)


# -- several labels -------------------------------------------------------------------------------

SEVERAL = [
    [([0.0, 1.0, 1.0], "a.png"), ([0.0, 0.0, 0.0], "b.png"), ([1.0, 0.0, 0.0], "c.png")],
    [([0.0, 0.0, 1.0], "d.png")],
]


@pytest.mark.parametrize(
    "text",
    [
        "path,labels,split\na.png, cat ;dog;,train\nb.png,,train\nsub/c.png,ant,train\n"
        "d.png,dog,val\n",
        "split,path,ant,cat,dog\ntrain,a.png,0,1,1\ntrain,b.png,0,0.0,0\ntrain,sub/c.png,1,0,0\n"
        "val,d.png,0,0,1.0",
    ],
)
def test_several_labels_of_an_image(folder: Path, text: str) -> None:
    splits = open_splits(table(folder, text))
    assert splits.train.class_names == splits.val.class_names == ("ant", "cat", "dog")
    assert both(splits) == SEVERAL
    data = ImageData(table(folder, text), get_recipe("imagenet_224"), PREPROCESS, 3, 2, 0)
    assert data.has_several_labels
    assert data.num_classes == 3
    images, labels = data.validation_batch(next(iter(data.val_batches())))
    assert images.shape == (1, 3, 32, 32)
    assert labels.dtype == torch.float32
    assert labels.tolist() == [[0.0, 0.0, 1.0]]
    _, labels = data.training_batch(next(iter(data.train_batches(0))))
    assert labels.shape == (3, 3)
    data.close()
    with pytest.raises(ValueError, match="mixup of images with several labels"):
        data.enable_mixup(3)


# -- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "got the columns of an empty file, needs a first line path,label"),
        ("a.png,cat\nb.png,ant\n", "got the columns a.png, cat, needs a first line path,label"),
        ("path;label\na.png;cat\n", "got the columns path;label, needs .* with commas"),
        ("path,label,labels\na.png,a,b\n", "got the columns path, label, labels, needs"),
        ("path\na.png\n", "got the columns path, needs"),
        ("path,label,label\na.png,a,b\n", "has a column twice"),
        ("path,label,split\n", "has no rows below its first line"),
        ("path,label\na.png,cat\n", "has no column split, needs it or a table given by --data-val"),
        ("path,label,split\na.png,cat\n", "line 2: got 2 cells, needs 3"),
        ("path,label,split\na.png,cat,train\n,cat,val\n", "line 3: got no path"),
        ("path,label,split\na.png,,train\n", "line 2: got no label"),
        ("path,label,split\na.png,cat,train\n", "has no row of split val, only of train; needs tr"),
        (
            "path,label,split\na.png,cat,trian\nb.png,cat,val\n",
            "has no row of split train, only of",
        ),
        ("path,cat,split\na.png,2,train\n", "line 2: got '2' in a class's column, needs 0 or 1"),
        ('path,label,split\n"a.png,cat,train\n', "line 2: unexpected end of data"),
        (
            "path,label,split\na.png,9999999999,train\nb.png,1,val\n",
            "line 2: got the label 9999999",
        ),
        (
            "path,label,split\na.png,cat,train\nb.png,cat,val\na.png,ant,train\n",
            "lines 2 and 4 give a.png the labels cat and ant; several labels .* column `labels`",
        ),
        (
            "path,label,split\na.png,cat,train\nb.png,cat,val\na.png,cat,val\n",
            "lines 2 and 4 put a.png into two splits",
        ),
        (
            "path,label,split\na.png,cat,train\nb.png,ant,val\n",
            r"differ in their classes, first of all \['ant', 'cat'\]",
        ),
        (
            "path,labels,split\na.png,cat,train\nb.png,ant,val\n",
            "line 3: no image to train on has the label ant",
        ),
        ("path,label,split\nx.png,cat,train\nb.png,cat,val\n", "there is no .*x.png"),
    ],
)
def test_what_cannot_be_meant(folder: Path, text: str, fault: str) -> None:
    path = table(folder, text)
    with pytest.raises(ValueError, match=fault) as caught:
        open_splits(path)
    assert str(caught.value).startswith(f"--data {path}: ")


@pytest.mark.parametrize(
    "content", [b"path,label\n\xff.png,a\n", bytes(100), b"path,label\n\0,a\n"]
)
def test_a_table_that_is_no_text(folder: Path, content: bytes) -> None:
    (folder / "images.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"images.csv"):
        open_splits(str(folder / "images.csv"))


def test_one_table_for_both_splits_without_a_column(folder: Path) -> None:
    path = table(folder, "path,label\na.png,cat\n")
    with pytest.raises(ValueError, match=r"images.csv: is given for training and for validation"):
        open_splits(path, val=path)


def test_tables_of_two_kinds(folder: Path) -> None:
    one = table(folder, "path,label\na.png,cat\n", "one.csv")
    several = table(folder, "path,labels\nb.png,cat\n", "several.csv")
    columns = table(folder, "path,ant,cat\nb.png,0,1\n", "columns.csv")
    other = table(folder, "path,cat,ant\nb.png,0,1\n", "other.csv")
    with pytest.raises(ValueError, match="one gives an image one label, the other several"):
        open_splits(one, val=several)
    with pytest.raises(ValueError, match="have different columns of classes"):
        open_splits(columns, val=other)
