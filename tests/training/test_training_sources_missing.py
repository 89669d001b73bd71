"""What is missing or swapped where --data points to is said, before anything is read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from training.image_layouts import (
    CLASSES,
    KIT,
    LAYOUTS,
    TRAIN,
    VAL,
    as_downloaded,
    fails,
    in_class_archives,
    in_folders,
    in_shards,
    kit,
    write_kit,
)
from transnext_models.training.sources import open_splits


def test_a_folder_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    fails(
        tmp_path / "data",
        r"--data: got .*/data, which has no train images, needs train/<class>/<image>, "
        rf"train/<class>.tar, train.csv, {TRAIN} or shards \*train\*.tar$",
    )


def test_a_folder_that_is_one_split(content: dict[str, Any], tmp_path: Path) -> None:
    source = in_folders(content, tmp_path / "data")
    fails(f"{source}/train", f"it is one split itself: name {source}")
    fails(f"{source}/val", f"it is one split itself: name {source}")


def test_a_folder_above_and_a_folder_of_classes(content: dict[str, Any], tmp_path: Path) -> None:
    source = in_folders(content, tmp_path / "around" / "data")
    fails(tmp_path / "around", f"{source} has train/: name that")
    (tmp_path / "around" / "data" / "train").rename(tmp_path / "photos")
    fails(tmp_path / "photos", rf"its folders \({', '.join(CLASSES)}\) look like classes")


def test_a_folder_of_class_archives(content: dict[str, Any], tmp_path: Path) -> None:
    source = in_class_archives(content, tmp_path / "data")
    (Path(source) / "train").rename(tmp_path / "photos")
    fails(tmp_path / "photos", rf"its archives \({CLASSES[0]}.tar, .* have no name of a split")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_that_is_missing(split: str, content: dict[str, Any], tmp_path: Path) -> None:
    source = Path(in_folders(content, tmp_path / "data"))
    shutil.rmtree(source / split)
    fails(source, f"which has no {split} images, needs {split}/<class>/<image>")


def test_a_split_that_is_empty(content: dict[str, Any], tmp_path: Path) -> None:
    source = Path(in_folders(content, tmp_path / "data"))
    shutil.rmtree(source / "val")
    (source / "val" / "empty").mkdir(parents=True)
    fails(source, "val: holds no images, needs val/<class>/<image>")


def test_flat_images_without_the_kit(content: dict[str, Any], tmp_path: Path) -> None:
    source = Path(in_folders(content, tmp_path / "data"))
    (source / "val").rename(source / "old")
    (source / "old" / CLASSES[0]).rename(source / "val")
    fails(
        source,
        rf"holds images without folders of their classes .*needs val/<class>/<image>, or {KIT}",
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_that_one_split_has(split: str, content: dict[str, Any], tmp_path: Path) -> None:
    other = "validation" if split == "train" else "training"
    for layout in ("folders", "class archives"):
        source = Path(LAYOUTS[layout](content, tmp_path / layout))
        gone = next((source / split).glob(f"{CLASSES[2]}*"))
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        fails(
            source,
            rf"differ in their classes, first of all \['{CLASSES[2]}'\], which only {other} has",
        )


def test_classes_of_another_data_set(content: dict[str, Any], tmp_path: Path) -> None:
    content["val"] = {name.replace("n", "m"): files for name, files in content["val"].items()}
    fails(in_folders(content, tmp_path), "which are each only in one of them")


def test_archives_under_each_others_names(content: dict[str, Any], tmp_path: Path) -> None:
    source = Path(as_downloaded(content, tmp_path / "data"))
    right = {name: (source / name).read_bytes() for name in (TRAIN, VAL)}
    (source / TRAIN).write_bytes(right[VAL])
    fails(
        source, rf"{TRAIN}: holds validation images \(ILSVRC2012_val_0+1.JPEG\), needs archives <cl"
    )
    (source / VAL).write_bytes(right[TRAIN])
    fails(source, rf"{VAL}: holds archives \({CLASSES[0]}.tar\), needs images ILSVRC2012_val_0")


def test_an_archive_named_itself(content: dict[str, Any], tmp_path: Path) -> None:
    source = as_downloaded(content, tmp_path / "data")
    fails(f"{source}/{TRAIN}", f"an archive of one split, needs its folder, {source}")


def test_the_validation_archive_without_the_kit(content: dict[str, Any], tmp_path: Path) -> None:
    source = Path(as_downloaded(content, tmp_path / "data"))
    (source / f"{KIT}.tar.gz").unlink()
    fails(source, f"{VAL}: has no labels, needs {KIT}.tar.gz beside it")


def damaged_kit(files: dict[str, bytes], how: str) -> dict[str, bytes]:
    truth, meta = f"{KIT}/data/ILSVRC2012_validation_ground_truth.txt", f"{KIT}/data/meta.mat"
    if how == "one line less":
        files[truth] = files[truth].split(b"\n", 1)[1]
    elif how == "unknown number":
        files[truth] = files[truth].replace(b"\n", b"9\n", 1)
    elif how == "not a number":
        files[truth] = files[truth].replace(b"\n", b"x\n", 1)
    elif how == "empty":
        files[truth] = b""
    elif how == "no meta":
        del files[meta]
    elif how == "text":
        files[meta] = b"text" * 100
    return files


@pytest.mark.parametrize(
    ("how", "fault"),
    [
        ("one line less", rf"{VAL}: holds 8 images, needs the 7 that .*{KIT}.tar.gz lists"),
        ("unknown number", r"ground_truth.txt: got '\d9', needs a class's number in each line"),
        ("not a number", r"ground_truth.txt: got '\dx', needs a class's number in each line"),
        ("empty", r"ground_truth.txt: got None, needs a class's number in each line"),
        ("no meta", rf"{KIT}.tar.gz: has no data/meta.mat"),
        ("text", r"data/meta.mat: holds no classes of ILSVRC2012"),
    ],
)
def test_a_kit_that_does_not_fit(
    how: str, fault: str, content: dict[str, Any], tmp_path: Path
) -> None:
    source = Path(as_downloaded(content, tmp_path / "data"))
    write_kit(damaged_kit(kit(content["val"]), how), source)
    fails(source, fault)


def test_a_kit_that_was_not_downloaded_whole(content: dict[str, Any], tmp_path: Path) -> None:
    source = Path(as_downloaded(content, tmp_path / "data"))
    packed = (source / f"{KIT}.tar.gz").read_bytes()
    for part in (packed[: len(packed) // 2], b"<html>not found</html>", b""):
        (source / f"{KIT}.tar.gz").write_bytes(part)
        fails(source, rf"{KIT}.tar.gz: (cannot be read|is empty|has no data)")


def test_an_image_missing_in_the_validation_archive(
    content: dict[str, Any], tmp_path: Path
) -> None:
    source = Path(as_downloaded(content, tmp_path / "data"))
    del content["val"][CLASSES[1]][max(content["val"][CLASSES[1]])]
    (tmp_path / "less").mkdir()
    shutil.copy(source / f"{KIT}.tar.gz", tmp_path / f"{KIT}.tar.gz")
    shutil.rmtree(source)
    as_downloaded(content, source)
    shutil.copy(tmp_path / f"{KIT}.tar.gz", source / f"{KIT}.tar.gz")
    fails(source, rf"{VAL}: holds 7 images, number \d is missing, needs the 8 that")


def test_options_that_do_not_go_together(content: dict[str, Any], tmp_path: Path) -> None:
    source = in_shards(content, tmp_path / "data")
    pattern = f"{source}/train-000000.tar"
    fails(pattern, "shards of one split, needs those of the other by --data-val")
    fails(pattern, "--data-val: got .*, which is --data too", val=pattern)
    fails(pattern, "there is no shard nowhere.tar", val="nowhere.tar")
    fails(pattern, "there is no shard .*/none-\\*.tar", val=f"{source}/none-*.tar")
    fails(pattern, "--data-val: got nowhere, needs a folder of one split", val="nowhere")
    fails(pattern, "got a CSV file and something else", val="a.csv")
    fails("pipe:cat a.tar", "--epoch-length: got nothing, needs the number of", val=pattern)
    fails(pattern, "--val-length: got nothing, needs the number", val="s3://bucket/a.tar")
    fails(f"pipe:cat {'a' * 5000}", "--epoch-length: got nothing", val=pattern)
    fails("nowhere", "--data nowhere is neither a folder nor a data set that can be found")
    fails(tmp_path / "no.csv", "no.csv: cannot be read")


def test_packages_that_are_missing(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name in ("datasets", "braceexpand", "fsspec"):
        monkeypatch.setitem(sys.modules, name, None)
    for data, val in (("hfds/none", None), ("a-{0..1}.tar", "b.tar")):
        with pytest.raises(RuntimeError, match=r"needs the package \w+: pip install .*\[sources\]"):
            open_splits(data, val=val)
