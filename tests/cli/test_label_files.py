"""Names of classes from a user's file: every format gives the same, and mistakes are named."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transnext_models.classification.classifier import Classifier
from transnext_models.classification.label_files import labels_of, read_labels

# What a line of text can hold; a class called 1 has its tests below.
NAMES = st.lists(
    st.text(st.characters(categories=("L", "Nd", "Zs", "P", "S")), min_size=1, max_size=12)
    .map(str.strip)
    .filter(lambda name: name and not re.fullmatch(r"\d+", name) and name[0] != "\ufeff"),
    min_size=2, max_size=8, unique_by=str.lower,
)  # fmt: skip


def table(rows: list[list[object]], delimiter: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue()


@given(names=NAMES, turn=st.integers(0, 7))
def test_every_format_says_the_same(tmp_path_factory, names, turn):
    folder = tmp_path_factory.mktemp("labels")
    pairs = list(enumerate(names))
    pairs = pairs[turn % len(pairs) :] + pairs[: turn % len(pairs)]  # in any order
    written = {
        "lines.txt": "\n".join(names),
        "ended.txt": "\ufeff" + "\r\n".join(names) + "\r\n\r\n",
        "list.json": json.dumps(names),
        "by_index.json": json.dumps({str(index): name for index, name in pairs}),
        "by_name.json": json.dumps({name: index for index, name in pairs}),
        "transformers.json": json.dumps({"id2label": dict(pairs), "label2id": {}}),
        "timm.json": json.dumps({"architecture": "x", "label_names": names}),
        "one.csv": table([["name"], *([name] for name in names)]),
        "indexed.csv": table([[index, name] for index, name in pairs]),
        "named.csv": table([[name, index] for index, name in pairs]),
        "titled.csv": table([["name", "index"], *([name, index] for index, name in pairs)]),
        "wide.csv": table(
            [["n", "index", "label"], *([7, index, name] for index, name in pairs)]
        ),
        "tabs.tsv": table([[index, name] for index, name in pairs], "\t"),
    }  # fmt: skip
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
        assert read_labels(folder / name, len(names)) == names, name


def test_names_that_are_numbers(tmp_path):
    """As of digits: the first column of numbers is the classes'."""
    digits = [str(digit) for digit in range(9, -1, -1)]
    (tmp_path / "digits.csv").write_text(table(list(enumerate(digits))))
    (tmp_path / "titled.csv").write_text(
        table([["label", "index"], *map(list, zip(digits, range(10), strict=True))])
    )
    (tmp_path / "digits.txt").write_text("\n".join(digits))
    for name in ("digits.csv", "titled.csv", "digits.txt"):
        assert read_labels(tmp_path / name, 10) == digits


def test_a_class_called_name_is_no_title(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text("name\nother\n")
    assert read_labels(path, 2) == ["name", "other"]
    assert read_labels(path, 1) == ["other"]
    path.write_text("0,name\n1,index\n")
    assert read_labels(path, 2) == ["name", "index"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "cat\ndog\n", "has 2 names, needs 3, one for each class of the model"),
        ("a.txt", "cat", "has 1 name, needs 3"),
        ("a.txt", "", "has 0 names, needs 3"),
        ("a.txt", "cat\n\ndog", "the name of class 1 is empty"),
        ("a.txt", "a\nb\n" + "c" * 1001, "class 2 has more than 1000 characters"),
        ("a.json", "[1, 2, 3]", "needs a list of names, {index: name} or {name: index}"),
        ("a.json", '"cat"', "needs a list of names"),
        ("a.json", "cat\ndog", "it is no JSON"),
        ("a.json", "[" * 100_000, "it is no JSON"),
        ("a.json", '{"0": "a", "1": "b", "0": "c"}', "class 0 is named twice, 'a' first"),
        ("a.json", '{"1": "a", "2": "b", "3": "c"}', "got class 3, needs numbers from 0 to 2"),
        ("a.json", '{"a": 0, "b": 2}', "class 1 of the model's 3 has no name"),
        ("a.json", '{"0": "a"}', "class 1 and 1 more of the model's 3 has no name"),
        ("a.json", '{"a": 0, "b": true}', "needs a list of names"),
        ("a.json", '{"zero": "a"}', "got 'zero', needs the number of a class"),
        ("a.json", '{"a": -1, "b": 0, "c": 1}', "got class -1"),
        ("a.csv", "0,a\n1\n", "row 2 has 1 columns, the first has 2"),
        ("a.csv", "x,0,a\ny,1,b\n", "no titles 'index' and 'name' say which"),
        ("a.csv", "name,kind\na,b\n", "needs a column with the numbers of the classes"),
        ("a.csv", "0,a\none,b\n", "needs a column with the numbers"),
        ("a.csv", "0," + "x" * 200_000, "line 1: field larger than field limit"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_labels(path, 3)
    assert str(error.value).startswith(f"labels: {path}")
    assert len(str(error.value)) < 500 + len(str(path))


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.txt").write_bytes("Mädchen".encode("latin-1"))
    large = tmp_path / "large.txt"
    with large.open("wb") as file:
        file.truncate(17 << 20)
    for path, message in (
        (tmp_path / "gone.txt", "is not there"),
        (tmp_path, "is a folder"),
        (tmp_path / "latin.txt", "is no text in UTF-8"),
        (large, "has more than 16 MiB"),
    ):
        with pytest.raises(ValueError, match=message):
            read_labels(path, 3)


def test_names_one_by_one():
    assert labels_of(("a", "b"), 2) == ["a", "b"]
    with pytest.raises(ValueError, match="labels: got 2 names, needs 3"):
        labels_of(["a", "b"], 3)
    with pytest.raises(TypeError, match="labels: got int, needs names of classes"):
        labels_of(["a", 1], 2)  # type: ignore[list-item]


def words(tmp_path: Path, count: int) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("".join(f"word {index}\n" for index in range(count)))
    return path


def test_classify_with_labels(transnext, weights, folder, tmp_path):
    arguments = ("classify", folder / "image_00.png", "--weights", weights, "--json", "--labels")
    code, out, err = transnext(*arguments, words(tmp_path, 10))
    assert (code, err) == (0, "")
    (image,) = json.loads(out)["images"]
    for prediction in image["predictions"]:
        assert prediction["label"] == f"word {prediction['class']}"


def test_classify_with_labels_of_something_else(transnext, weights, folder, tmp_path):
    arguments = ("classify", folder / "image_00.png", "--weights", weights, "--json", "--labels")
    code, out, err = transnext(*arguments, words(tmp_path, 1000))
    assert code == 1
    assert "words.txt has 1000 names, needs 10, one for each class of the model" in err
    assert json.loads(out)["error"] in err


def test_classifier_with_labels(weights):
    classifier = Classifier.load(weights=weights, labels=list("abcdefghij"), device="cpu")
    assert classifier.labels == list("abcdefghij")
