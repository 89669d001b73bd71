"""What --data names is found by what lies there."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from requirements import needs
from training.image_layouts import (
    CLASSES,
    KIT,
    LAYOUTS,
    TRAIN,
    Contents,
    archive_of,
    as_downloaded,
    fails,
    in_class_archives,
    in_folders,
    in_hugging_face,
    in_shards,
    kit,
    shuffled,
    write_kit,
)
from training.short_runs import SMALL
from training.test_training_run import transnext_train
from transnext_models.training.sources import ImageSet, Splits, absolute, open_splits


def pixels(images: Any) -> list[tuple[int, bytes]]:
    return [(label, image.tobytes()) for image, label, _ in images]


def expected(content: dict[str, Contents], folder: Path) -> list[list[tuple[int, bytes]]]:
    splits = open_splits(in_folders(content, folder / "expected"))
    return [pixels(splits.train), pixels(splits.val)]


def both(splits: Splits) -> list[list[tuple[int, bytes]]]:
    return [pixels(splits.train), pixels(splits.val)]


# -- layouts in one folder ------------------------------------------------------------------------


def test_class_archives_to_train_on_and_folders_to_validate_on(
    content: dict[str, Any], tmp_path: Path
) -> None:
    """As where only the outer archive was unpacked."""
    in_class_archives({"train": content["train"]}, tmp_path / "data")
    in_folders({"validation": content["val"]}, tmp_path / "data")
    found = open_splits(str(tmp_path / "data"))
    assert both(found) == expected(content, tmp_path)


def test_flat_validation_images_beside_the_kit(content: dict[str, Any], tmp_path: Path) -> None:
    in_folders({"train": content["train"]}, tmp_path / "data")
    in_folders(
        {"val": {"": {k: v for c in content["val"].values() for k, v in c.items()}}},
        tmp_path / "flat",
    )
    (tmp_path / "flat" / "val").rename(tmp_path / "data" / "val")
    write_kit(kit(content["val"]), tmp_path / "data")
    found = open_splits(str(tmp_path / "data"))
    assert both(found) == expected(content, tmp_path)
    assert found.val.class_names == tuple(CLASSES)


def test_the_kit_unpacked(content: dict[str, Any], tmp_path: Path) -> None:
    source = Path(as_downloaded(content, tmp_path / "data"))
    with tarfile.open(source / f"{KIT}.tar.gz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # not in old Pythons
        archive.extractall(source)
    (source / f"{KIT}.tar.gz").unlink()
    assert both(open_splits(str(source))) == expected(content, tmp_path)


def test_unpacked_folders_go_before_archives(content: dict[str, Any], tmp_path: Path) -> None:
    source = Path(as_downloaded(content, tmp_path / "data"))
    in_folders(content, source)
    (source / TRAIN).write_bytes(b"still being downloaded")
    assert both(open_splits(str(source))) == expected(content, tmp_path)


def test_shards_of_each_split_in_a_folder_of_its_own(
    content: dict[str, Any], tmp_path: Path
) -> None:
    source = Path(in_shards(content, tmp_path / "data"))
    for split in ("train", "val"):
        (source / split).mkdir()
        for path in source.glob(f"{split}-*.tar"):
            path.rename(source / split / path.name.removeprefix(f"{split}-"))
    assert both(open_splits(str(source))) == expected(content, tmp_path)


@needs("braceexpand")[0]
@pytest.mark.parametrize(
    "pattern",
    [
        "{source}/{split}-{{000000..000002}}.tar",
        "{source}/{split}-*.tar",
        "file://{source}/{split}-00000{{0,1,2}}.tar",
    ],
)
def test_patterns_of_local_shards(pattern: str, content: dict[str, Any], tmp_path: Path) -> None:
    source = in_shards(content, tmp_path / "data")
    train, val = (pattern.format(source=source, split=split) for split in ("train", "val"))
    found = open_splits(train, val=val)
    assert both(found) == expected(content, tmp_path)
    assert found.train.num_classes is None


@pytest.mark.parametrize("layout", ["folders", "class archives", "shards"])
def test_a_folder_for_each_split(layout: str, content: dict[str, Any], tmp_path: Path) -> None:
    places = []
    for split in ("train", "val"):
        source = Path(
            LAYOUTS[layout]({"train": content[split], "val": content[split]}, tmp_path / split)
        )
        for path in source.glob("val-*.tar"):
            path.unlink()
        places.append(str(source if layout == "shards" else source / "train"))
    assert both(open_splits(places[0], val=places[1])) == expected(content, tmp_path)


@needs("datasets")[0]
def test_a_hugging_face_data_set_of_parquet_files(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one on the hub is; through `datasets.load_dataset`, without a network."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    saved = datasets.load_from_disk(in_hugging_face(content, tmp_path / "saved"))
    for split, rows in saved.items():
        (tmp_path / "data").mkdir(exist_ok=True)
        rows.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    found = open_splits(f"hfds/{tmp_path / 'data'}", root=tmp_path / "hub")
    assert both(found) == expected(content, tmp_path)
    assert found.train.class_names == tuple(CLASSES)


@needs("datasets")[0]
@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (
            {"image": "Image"},
            "got no columns of the kind ClassLabel, needs one, or one named label",
        ),
        ({"label": "ClassLabel"}, "got no columns of the kind Image"),
        (
            {"image": "Image", "coarse": "ClassLabel", "fine": "ClassLabel"},
            "got coarse and fine col",
        ),
        ({"image": "Image", "label": "Unlabelled"}, r"data\[train\]: has images without a label"),
    ],
)
def test_hugging_face_data_sets_that_do_not_fit(
    rows: dict[str, str], fault: str, content: dict[str, Any], tmp_path: Path
) -> None:
    import datasets

    kinds = {
        "Image": (datasets.Image(), {"bytes": b"", "path": "a.jpg"}),
        "ClassLabel": (datasets.ClassLabel(names=["a", "b"]), 1),
        "Unlabelled": (datasets.ClassLabel(names=["a", "b"]), -1),
    }
    features = datasets.Features({name: kinds[kind][0] for name, kind in rows.items()})
    row = {name: kinds[kind][1] for name, kind in rows.items()}
    one = datasets.Dataset.from_list([row], features=features)
    datasets.DatasetDict(train=one, test=one).save_to_disk(tmp_path / "data")
    with pytest.raises(ValueError, match=f"--data {tmp_path}/data: .*{fault}"):
        open_splits(str(tmp_path / "data"))


def test_torchvision_data_sets_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10 as its archive unpacks, made up: ten images of each split."""
    import pickle

    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in [*(name for name, _ in CIFAR10.train_list), CIFAR10.test_list[0][0]]:
        batch = {"data": rng.integers(0, 255, (10, 3072), np.uint8), "labels": list(range(10))}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / CIFAR10.meta["filename"]).write_bytes(
        pickle.dumps({"label_names": list("jihgfedcba")})
    )
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    splits = open_splits("torch/cifar10", root=tmp_path)
    assert (len(splits.train), len(splits.val)) == (50, 10)
    assert splits.train.class_names == tuple("jihgfedcba")
    assert isinstance(splits.train, ImageSet)
    image, label, name = splits.train[13]
    assert (image.size, label, name) == ((32, 32), 3, "torch/cifar10[train]: image 13")
    assert splits.train.label(13) == 3


# -- the same in another working folder -----------------------------------------------------------


def test_values_keep_their_meaning_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    here = os.getcwd()
    assert absolute("data") == f"{here}/data"
    assert absolute("shards/train-{00..11}.tar") == f"{here}/shards/train-{{00..11}}.tar"
    (tmp_path / "digits").mkdir()  # digits are digits, whatever lies here
    assert absolute("hfds/data") == f"hfds/{here}/data"
    assert absolute("file:///data/a.tar") == "file:///data/a.tar"
    for same in ("digits", "torch/cifar10", "hfds/imagenet-1k", "pipe:cat a.tar", "s3://b/a.tar"):
        assert absolute(same) == same


# -- shards ---------------------------------------------------------------------------------------


@needs("webdataset")[0]
@pytest.mark.parametrize("labels", ["cls", "json"])
def test_shards_that_webdataset_writes(
    labels: str, content: dict[str, Any], tmp_path: Path
) -> None:
    """With keys in folders, more files in a sample, and as webdataset reads them itself."""
    import webdataset

    (tmp_path / "data").mkdir()
    for split in ("train", "val"):
        with webdataset.ShardWriter(
            f"{tmp_path}/data/{split}-%06d.tar", maxcount=3, verbose=0
        ) as out:
            for label, name, file, image in shuffled(content[split]):
                label_file = {"cls": label, "json": {"label": label, "width": 8}}[labels]
                key = f"{name}/{file.removesuffix('.JPEG')}"
                out.write({"__key__": key, "jpg": image, labels: label_file, "txt": "a text"})
    found = open_splits(str(tmp_path / "data"))
    assert both(found) == expected(content, tmp_path)
    paths = sorted(str(path) for path in (tmp_path / "data").glob("train-*.tar"))
    theirs = webdataset.WebDataset(paths, shardshuffle=False).decode("pil").to_tuple("jpg")
    assert sorted(image.tobytes() for (image,) in theirs) == sorted(p for _, p in both(found)[0])


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"a.jpg": b""}, "its sample a has no label"),
        ({"a.cls": b"1"}, "its sample a has no image"),
        ({"a.jpg": b"", "a.png": b"", "a.cls": b"1"}, "its sample a has two images"),
        ({"a.jpg": b"", "a.cls": b"ant"}, "its sample a has the label 'ant', needs a number"),
        ({"a.jpg": b"", "a.cls": b"-1"}, "its sample a has the label '-1', needs a number"),
        ({"a.jpg": b"", "a.cls": b"9" * 5000}, "needs a number"),
        ({"a.jpg": b"", "a.cls": bytes(2 << 20)}, "its sample a has a file of 2,097,152 bytes"),
        ({"a.jpg": b"", "a.json": b"{"}, "its sample a has a .json that is none"),
        ({"a.jpg": b"", "a.json": b"[" * 100_000}, "its sample a has a .json that is none"),
        ({"a.jpg": b"", "a.json": b'{"label": true}'}, "has the label True, needs a number"),
        ({"a.jpg": b"", "a.json": b'{"class": 1}'}, "its sample a has no label"),
        ({}, "and all other shards are empty"),
    ],
)
def test_shards_that_are_none(files: dict[str, bytes], fault: str, tmp_path: Path) -> None:
    (tmp_path / "train-0.tar").write_bytes(archive_of(files))
    (tmp_path / "val-0.tar").write_bytes(archive_of({"a.jpg": b"", "a.cls": b"1"}))
    fails(tmp_path, f"{tmp_path}/train-0.tar: .*{fault}")


# -- the command ----------------------------------------------------------------------------------


def test_the_command_takes_two_tables_and_goes_on_in_another_folder(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = in_folders(
        {split: dict(list(c.items())[:3]) for split, c in content.items()}, Path("data")
    )
    for split in ("train", "val"):
        rows = [
            f"{path.relative_to(source)},{path.parent.name}\n"
            for path in Path(source, split).rglob("*.JPEG")
        ]
        Path(source, f"{split}.csv").write_text("path,label\n" + "".join(rows))
    begun = transnext_train(
        *("--recipe", SMALL.name, "--data", "data/train.csv", "--data-val", "data/val.csv"),
        *("--workers", "0", "--devices", "1", "--output", "run", "--limit-train-batches", "1"),
    )
    assert begun.exit_code == 0, begun.output
    shutil.rmtree("run/checkpoints")
    monkeypatch.chdir("/")
    run = tmp_path / "run"
    (run / "result.json").unlink()
    resumed = transnext_train("--resume", str(run))
    assert resumed.exit_code == 0, resumed.output


def test_the_command_names_what_is_missing(tmp_path: Path) -> None:
    result = transnext_train(
        *("--recipe", SMALL.name, "--data", str(tmp_path), "--output", str(tmp_path / "run")),
        *("--devices", "1"),
    )
    assert result.exit_code == 1
    assert "which has no train images, needs train/<class>/<image>" in result.stderr.replace(
        "\n", " "
    )
    assert "Traceback" not in result.stderr


# -- names ----------------------------------------------------------------------------------------


def test_shards_whose_names_hold_a_split_within_a_word(
    content: dict[str, Any], tmp_path: Path
) -> None:
    """`retrieval-train` is no shard of `val`; `train-val` could be of both."""
    source = Path(in_shards(content, tmp_path / "data"))
    for path in source.glob("*.tar"):
        path.rename(source / f"retrieval_{path.name}")
    assert both(open_splits(str(source))) == expected(content, tmp_path)
    shutil.copy(source / "retrieval_val-000000.tar", source / "train-val.tar")
    fails(source, "train-val.tar: has the names of both splits, needs --data and --data-val")


def test_one_table_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("path,label\na.png,ant\n")
    fails(tmp_path, "train.csv: is a table of one split, needs val.csv beside it")


def test_what_may_not_be_read(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = in_folders(content, tmp_path / "data")
    scandir = os.scandir

    def refusing(folder: Any) -> Any:
        if os.fspath(folder).endswith(refused):
            raise PermissionError(13, "Permission denied", os.fspath(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    for refused in ("val", f"train/{CLASSES[1]}"):
        fails(source, rf"--data {source}: .*{refused}")
