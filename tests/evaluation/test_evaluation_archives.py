"""Sets as they are downloaded: an archive gives the rows of the folder that it unpacks to."""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation.made_up_sets import paint, paint_classes, painted, rows_of
from hostile_archives import hostile
from training.image_layouts import (
    KIT,
    VAL,
    Contents,
    archive_of,
    as_downloaded,
    in_class_archives,
    in_folders,
    kit,
    named,
    write_kit,
)
from transnext_models.evaluation import trees
from transnext_models.evaluation.class_lists import indices_of_a, wnids
from transnext_models.evaluation.trees import open_tree

RIGHT = 700


def refused(place: Path, **options: Any) -> str:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 -- the message is looked at by callers
        rows_of(place, **options)
    assert not list(place.glob("results*"))
    return str(raised.value)


# -- ImageNet-1K's validation images --------------------------------------------------------------


@pytest.fixture(scope="module")
def validation() -> dict[str, Contents]:
    """One image of each of the thousand classes, 700 of them answered rightly, no training set."""
    images = {
        name: [painted(label if label < RIGHT else (label + 500) % 1000)]
        for label, name in enumerate(wnids())
    }
    return {"train": {}, "val": named({}, images)["val"]}


def flat(content: dict[str, Contents], root: Path) -> Path:
    """The images in one folder, and the kit beside it."""
    (root / "val").mkdir(parents=True)
    for files in content["val"].values():
        for name, image in files.items():
            (root / "val" / name).write_bytes(image)
    write_kit(kit(content["val"]), root)
    return root


def with_the_kit_unpacked(content: dict[str, Contents], root: Path) -> Path:
    as_downloaded(content, root)
    for name, file in kit(content["val"]).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(file)
    (root / f"{KIT}.tar.gz").unlink()
    return root


DOWNLOADS: dict[str, Callable[[dict[str, Contents], Path], Path]] = {
    "the archive and the kit in a folder": lambda c, root: Path(as_downloaded(c, root)),
    "the archive itself": lambda c, root: Path(as_downloaded(c, root)) / VAL,
    "the kit unpacked": with_the_kit_unpacked,
    "flat images in val": flat,
    "flat images, named themselves": lambda c, root: flat(c, root) / "val",
    "archives of classes": lambda c, root: Path(in_class_archives(c, root)),
    "their folder itself": lambda c, root: Path(in_class_archives(c, root)) / "val",
}  # fmt: skip


@pytest.mark.parametrize("download", DOWNLOADS)
def test_validation_images_as_downloaded_are_those_in_folders(
    download: str, validation: dict[str, Contents], tmp_path: Path
) -> None:
    """Labels are the places of sorted names, whatever numbers the kit has for the classes."""
    in_folders(validation, tmp_path / "folders")
    path = DOWNLOADS[download](validation, tmp_path / "data")
    (expected,) = rows_of(tmp_path / "1", imagenet=tmp_path / "folders")
    (found,) = rows_of(tmp_path / "2", imagenet=path)
    assert (found["images"], found["details"]["correct1"]) == (1000, RIGHT)
    for name in ("per_class", "expected_calibration_error"):
        assert found["details"][name] == expected["details"][name]
    assert found["loss"] == expected["loss"]


def test_real_labels_of_the_archive(validation: dict[str, Contents], tmp_path: Path) -> None:
    """They go by the images' numbers, which the archive's names have too."""
    in_folders(validation, tmp_path / "folders")
    source = as_downloaded(validation, tmp_path / "data")
    expected = rows_of(tmp_path / "1", imagenet=tmp_path / "folders", real=True)[1]
    found = rows_of(tmp_path / "2", imagenet=Path(source), real=True)[1]
    assert found["set"] == "imagenet-real"
    assert (found["images"], found["top1"]) == (expected["images"], expected["top1"])


def test_unpacked_folders_go_before_the_archive(
    validation: dict[str, Contents], tmp_path: Path
) -> None:
    source = Path(as_downloaded(validation, tmp_path / "data"))
    paint_classes(source / "val", range(10), right=4)
    (row,) = rows_of(tmp_path, imagenet=source)
    assert (row["images"], row["details"]["correct1"]) == (10, 4)


def test_the_training_set_beside_the_archive_is_not_taken(
    validation: dict[str, Contents], tmp_path: Path
) -> None:
    """In a folder of its own, or as the archives of classes that unpacking leaves."""
    source = Path(as_downloaded(validation, tmp_path / "data"))
    paint_classes(source / "train", range(10), right=4)
    (source / f"{wnids()[0]}.tar").write_bytes(archive_of({"x.JPEG": painted(0)}))
    (row,) = rows_of(tmp_path, imagenet=source)
    assert (row["images"], row["details"]["correct1"]) == (1000, RIGHT)
    for archive in (VAL, f"{wnids()[0]}.tar"):
        (source / archive).unlink()
    assert "no folder of a class such as n01440764, n01443537; its folders are train" in refused(
        tmp_path / "1", imagenet=source
    )


def test_an_archive_that_is_not_whole_is_marked(
    validation: dict[str, Contents], tmp_path: Path
) -> None:
    source = Path(as_downloaded(validation, tmp_path / "data"))
    images = [image for files in validation["val"].values() for image in files.items()]
    (source / VAL).write_bytes(archive_of(dict(images[:30])))
    (row,) = rows_of(tmp_path, imagenet=source)
    assert row["note"] == "incomplete: 30 of 50000 images"
    assert row["details"]["correct1"] == 30


def test_without_the_kit_there_are_no_labels(
    validation: dict[str, Contents], tmp_path: Path
) -> None:
    source = Path(as_downloaded(validation, tmp_path / "data"))
    (source / f"{KIT}.tar.gz").unlink()
    text = refused(tmp_path, imagenet=source)
    assert text.startswith(f"imagenet: got {source / VAL}, 1000 images in no folders")
    assert f"or {KIT}.tar.gz beside it" in text


@pytest.mark.parametrize(
    ("name", "fault"),
    [("cat.jpg", "holds cat.jpg, needs images ILSVRC2012_val_00000001.JPEG"),
     ("ILSVRC2012_val_00001001.JPEG", "holds 1001 images, needs the 1000 that")],
)  # fmt: skip
def test_images_that_do_not_belong_to_the_kit(
    name: str, fault: str, validation: dict[str, Contents], tmp_path: Path
) -> None:
    source = flat(validation, tmp_path / "data")
    paint(source / "val" / "x.png", 0)
    (source / "val" / "x.png").rename(source / "val" / name)
    assert fault in refused(tmp_path, imagenet=source)


# -- the other sets -------------------------------------------------------------------------------


def pack(root: Path, file: Path, inside: str) -> Path:
    file.parent.mkdir(exist_ok=True)
    with tarfile.open(file, "w") as archive:
        archive.add(root, inside)
    return file


def test_archives_of_all_variants_of_v2_in_a_folder(tmp_path: Path) -> None:
    unpacked = ("matched-frequency", "threshold0.7", "top-images")
    for right, name in enumerate(unpacked, start=3):
        folder = tmp_path / name
        paint_classes(folder, range(12), right=right, names=[str(n) for n in range(1000)])
        inside = f"imagenetv2-{name}-format-val"
        pack(folder, tmp_path / "v2" / f"imagenetv2-{name}.tar", inside)
    variants = ("matched-frequency", "threshold-0.7", "top-images")
    rows = rows_of(tmp_path, v2=tmp_path / "v2", v2_variants=variants)
    assert [(row["set"], row["details"]["correct1"]) for row in rows] == [
        (f"imagenetv2-{variant}", right) for right, variant in enumerate(variants, start=3)
    ]
    (row,) = rows_of(tmp_path / "1", v2=tmp_path / "v2" / "imagenetv2-matched-frequency.tar")
    assert row["details"]["correct1"] == 3


@pytest.mark.parametrize("option", ["a", "r", "sketch"])
def test_an_archive_is_the_folder(option: str, tmp_path: Path) -> None:
    labels = [label for label in indices_of_a() if label > 900]
    paint_classes(tmp_path / "folder", labels, right=5)
    file = pack(tmp_path / "folder", tmp_path / "tars" / "set.tar", "./imagenet")
    (expected,) = rows_of(tmp_path / "1", **{option: tmp_path / "folder"})
    (found,) = rows_of(tmp_path / "2", **{option: file})
    assert found["details"]["per_class"] == expected["details"]["per_class"]
    assert found["note"] == expected["note"]


# -- what an archive may hold ---------------------------------------------------------------------


@hostile
def test_a_hostile_archive_is_refused_as_in_training(
    content: bytes, fault: str, tmp_path: Path
) -> None:
    file = tmp_path / "imagenet-a.tar"
    file.write_bytes(content)
    text = refused(tmp_path, a=file)
    assert text.startswith(f"a: got {file}, needs a folder, a tar or a zip: ")
    assert re.search("cannot be decompressed" if "gzip" in fault else fault, text)


def test_a_hostile_archive_among_those_of_classes(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    for label in range(2):
        file = tmp_path / "val" / f"{wnids()[label]}.tar"
        file.write_bytes(archive_of({"../x.png" if label else "x.png": painted(label)}))
    text = refused(tmp_path, imagenet=tmp_path)
    assert text.startswith(f"imagenet: got {tmp_path}/val/{wnids()[1]}.tar, needs")
    assert "has a name that leads out of it" in text


def test_what_counts_as_an_image_is_the_same_in_both(tmp_path: Path) -> None:
    """Names as in training; hidden files and notes are passed over; the last of a name counts."""
    names = ["a.JPEG", "b.jif", "c.webp", ".d.png", "e.txt", "f.jpg.part"]
    files = {f"{wnids()[0]}/{name}": painted(0) for name in names}
    files[f"__MACOSX/{wnids()[0]}/a.png"] = b""
    for path, content in files.items():
        (tmp_path / "folder" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / path).write_bytes(content)
    packed = archive_of({f"{wnids()[0]}/a.JPEG": painted(5)})[:1024]
    (tmp_path / "set.tar").write_bytes(packed + archive_of(files))
    for path in (tmp_path / "folder", tmp_path / "set.tar"):
        tree = open_tree("sketch", path)
        assert tree.folders() == [wnids()[0]]
        assert tree.images(wnids()[0]) == ["a.JPEG", "b.jif", "c.webp"]
        assert tree.open(f"{wnids()[0]}/a.JPEG").read() == painted(0)
        with pytest.raises(FileNotFoundError):
            tree.open(f"{wnids()[0]}/b.png")


def test_an_archive_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million headers take minutes from a disk of a network."""
    paint_classes(tmp_path / "folder", range(5))
    file = pack(tmp_path / "folder", tmp_path / "tars" / "sketch.tar", "sketch")
    first = open_tree("sketch", file)
    monkeypatch.setattr(trees, "archive_members", lambda _: pytest.fail("it was read again"))
    again = open_tree("sketch", file)
    assert again.folders("sketch") == first.folders("sketch") == list(wnids()[:5])
    shutil.copyfile(file, tmp_path / "other.tar")
    with pytest.raises(pytest.fail.Exception):
        open_tree("sketch", tmp_path / "other.tar")


def test_an_archive_without_images(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(archive_of({"readme.txt": b"no images"}))
    assert "no folder of a class such as" in refused(tmp_path, a=tmp_path / "a.tar")
