"""One set of images in every layout in which it can be trained on."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from transnext_models.training.digits import load_split
from transnext_models.training.sources import open_splits

SPLITS = ("train", "val")
KIT = "ILSVRC2012_devkit_t12"
TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
CLASSES = [f"n{number:08d}" for number in range(4)]
Contents = Mapping[str, Mapping[str, bytes]]  # class, name, file


def jpeg(pixels: np.ndarray) -> bytes:
    """Encode pixels, uint8 [H, W, 3] or [H, W]."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def named(
    train: Mapping[str, Sequence[bytes]], val: Mapping[str, Sequence[bytes]]
) -> dict[str, Contents]:
    """Name images as ImageNet does; validation images are numbered across the classes."""
    shuffled = [(name, image) for name, images in val.items() for image in images]
    random.Random(1).shuffle(shuffled)
    numbered: dict[str, dict[str, bytes]] = {name: {} for name in val}
    for number, (name, image) in enumerate(shuffled, 1):
        numbered[name][f"ILSVRC2012_val_{number:08d}.JPEG"] = image
    return {
        "train": {
            name: {f"{name}_{index * 7}.JPEG": image for index, image in enumerate(images)}
            for name, images in train.items()
        },
        "val": numbered,
    }


def noise(classes: Sequence[str], train: int, val: int, side: int = 8) -> dict[str, Contents]:
    """Different small images."""
    rng = np.random.default_rng(0)

    def images(count: int) -> dict[str, list[bytes]]:
        shape = (side, side, 3)
        return {
            name: [jpeg(rng.integers(0, 255, shape, np.uint8)) for _ in range(count)]
            for name in classes
        }

    return named(images(train), images(val))


def digits(classes: Sequence[str], train: int, val: int) -> dict[str, Contents]:
    """So many handwritten digits of each class to train on, and others to validate on."""

    def images(count: int, held_out: bool) -> dict[str, list[bytes]]:
        found = load_split()[held_out]
        return {
            name: [jpeg(image) for image in found.images[found.labels == label][:count]]
            for label, name in enumerate(classes)
        }

    return named(images(train, False), images(val, True))


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to an archive."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def archive_of(files: Mapping[str, bytes]) -> bytes:
    """Return an archive of files, in their order."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            add(archive, name, content)
    return packed.getvalue()


def in_folders(content: Mapping[str, Contents], root: Path) -> str:
    for split, classes in content.items():
        for name, files in classes.items():
            (root / split / name).mkdir(parents=True)
            for file, image in files.items():
                (root / split / name / file).write_bytes(image)
    return str(root)


def in_class_archives(content: Mapping[str, Contents], root: Path) -> str:
    """The archives of training have a folder of their class's name, and their own order."""
    for split, classes in content.items():
        (root / split).mkdir(parents=True)
        for name, files in classes.items():
            inner = f"./{name}/" if split == "train" else ""
            packed = {inner + file: image for file, image in reversed(files.items())}
            (root / split / f"{name}.tar").write_bytes(archive_of(packed))
    return str(root)


def kit(content: Contents) -> dict[str, bytes]:
    """The files of the development kit; numbers of classes are in no order of their names."""
    from scipy.io import savemat

    names = sorted(content)
    random.Random(0).shuffle(names)
    numbers = {name: number for number, name in enumerate(names, 1)}
    fields = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "num_children")]
    synsets = np.array(
        [(number, name, f"a {name}", 0) for name, number in numbers.items()]
        + [(len(names) + 1, "n00001740", "entity", 5)],
        dtype=fields,
    )
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets.reshape(-1, 1)})
    truth = {file: numbers[name] for name, files in content.items() for file in files}
    lines = "".join(f"{truth[file]}\n" for file in sorted(truth))
    return {
        f"{KIT}/readme.txt": b"ImageNet",
        f"{KIT}/data/meta.mat": meta.getvalue(),
        f"{KIT}/data/ILSVRC2012_validation_ground_truth.txt": lines.encode(),
    }


def write_kit(files: Mapping[str, bytes], root: Path) -> None:
    with tarfile.open(root / f"{KIT}.tar.gz", "w:gz") as archive:
        for name, file in files.items():
            add(archive, name, file)


def as_downloaded(content: Mapping[str, Contents], root: Path) -> str:
    root.mkdir(parents=True)
    inner = {f"{name}.tar": archive_of(files) for name, files in content["train"].items()}
    (root / "ILSVRC2012_img_train.tar").write_bytes(archive_of(inner))
    flat = {file: image for files in content["val"].values() for file, image in files.items()}
    (root / "ILSVRC2012_img_val.tar").write_bytes(archive_of(dict(sorted(flat.items()))))
    write_kit(kit(content["val"]), root)
    return str(root)


def shuffled(classes: Contents) -> list[tuple[int, str, str, bytes]]:
    """Label, class, name and file of each image, in no order."""
    found = [
        (label, name, file, image)
        for label, name in enumerate(sorted(classes))
        for file, image in classes[name].items()
    ]
    random.Random(2).shuffle(found)
    return found


def write_shards(classes: Contents, root: Path, split: str, count: int) -> None:
    """Write shards `<split>-000000.tar`, …"""
    root.mkdir(parents=True, exist_ok=True)
    samples = shuffled(classes)
    for shard in range(count):
        files = {}
        for label, _, file, image in samples[shard::count]:
            key = file.removesuffix(".JPEG")
            files |= {f"{key}.jpg": image, f"{key}.cls": str(label).encode()}
        (root / f"{split}-{shard:06d}.tar").write_bytes(archive_of(files))


def in_shards(content: Mapping[str, Contents], root: Path) -> str:
    for split in SPLITS:
        write_shards(content[split], root, split, 3)
    return str(root)


def in_table(content: Mapping[str, Contents], root: Path) -> str:
    """One CSV file for both splits, and files in no folders."""
    rows = []
    for split in SPLITS:
        (root / "files" / split).mkdir(parents=True)
        for _, name, file, image in shuffled(content[split]):
            (root / "files" / split / file).write_bytes(image)
            rows.append(f"files/{split}/{file},{name},{split}\n")
    (root / "images.csv").write_text("path,label,split\n" + "".join(rows))
    return str(root / "images.csv")


def in_hugging_face(content: Mapping[str, Contents], root: Path) -> str:
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=sorted(content["train"]))}
    )

    def rows(split: str) -> Iterator[dict[str, object]]:
        for label, _, file, image in shuffled(content[split]):
            yield {"image": {"bytes": image, "path": file}, "label": label}

    splits = {
        name: datasets.Dataset.from_list(list(rows(split)), features=features)
        for name, split in (("train", "train"), ("validation", "val"))
    }
    datasets.DatasetDict(splits).save_to_disk(root)
    return str(root)


LAYOUTS: dict[str, Callable[[Mapping[str, Contents], Path], str]] = {
    "folders": in_folders,
    "class archives": in_class_archives,
    "as downloaded": as_downloaded,
    "shards": in_shards,
    "table": in_table,
    "hugging face": in_hugging_face,
}
"""Each writes the images below a folder, and returns what --data is to be."""

NEEDS = {"hugging face": ["datasets"]}
"""Distributions that layouts need."""


def fails(data: Path | str, fault: str, **options: Any) -> None:
    """Refuse `data` with a message that names the option and has `fault`."""
    with pytest.raises(ValueError, match=fault) as caught:
        open_splits(str(data), **options)
    assert str(caught.value).startswith("--")
