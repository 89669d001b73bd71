"""What lies where --data says, as the images of training and of validation.

--data                      what there has to be
--------------------------  --------------------------------------------------------------------
a folder                    for each split the first of these:
                              train/            <class>/<image>, or <class>.tar, or shards
                              train.csv
                              ILSVRC2012_img_train.tar
                              *train*.tar       shards
                            (val/ or validation/, val.csv, ILSVRC2012_img_val.tar with the kit
                            ILSVRC2012_devkit_t12.tar.gz, *val*.tar); or dataset_dict.json, from
                            Hugging Face's `save_to_disk`
FILE.csv                    path,label,split
shards                      a local pattern, `pipe:` and a command, or a URL; another by --data-val
hfds/NAME, torch/NAME       a data set of Hugging Face, or of torchvision

With --data-val, both name one split: a folder of class folders, of <class>.tar or of shards; a CSV
file; or shards.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...images import is_hidden
from ...images.formats import is_image_name
from . import imagenet
from .archives import class_archives
from .folders import class_folders
from .hugging_face import SAVED, hugging_face_splits
from .image_set import ImageSet
from .shards import is_streamed, looks_like_shard, shard_images, shard_names
from .streams import ShardStream
from .tables import table_splits
from .torchvision_sets import torchvision_splits

__all__ = ["Splits", "absolute", "open_splits"]

_HUGGING_FACE, _TORCHVISION, _DIGITS = "hfds/", "torch/", "digits"
_SHOWN = 5
_NAMES = {"train": ("train",), "val": ("val", "validation")}
_ARCHIVES = {"train": imagenet.TRAIN_ARCHIVE, "val": imagenet.VAL_ARCHIVE}

Split = ImageSet | ShardStream


@dataclass(frozen=True)
class Splits:
    """The images of training and of validation, with the same classes in the same order."""

    train: Split
    val: Split


def open_splits(
    data: str,
    *,
    val: str | None = None,
    root: Path | None = None,
    lengths: tuple[int | None, int | None] = (None, None),
) -> Splits:
    """Find the images of both splits.

    Parameters
    ----------
    data, val : str, str | None
        See above.
    root : Path | None
        Where a data set given by name is kept, and what relative paths of a CSV file start from.
    lengths : tuple[int | None, int | None]
        Images of an epoch and of a validation, of shards that can only be read in order.

    Raises
    ------
    ValueError
        Something is missing, damaged or not where it belongs; names --data.
    RuntimeError
        A package is missing.
    """
    option = f"--data {data}" if val is None else f"--data {data} --data-val {val}"
    try:
        splits = _both(data, root) if val is None else _each(data, val, root, lengths)
        _check_classes(splits)
    except (ValueError, OSError) as error:
        text = str(error)
        raise ValueError(text if text.startswith("--") else f"{option}: {text}") from error
    return splits


def absolute(data: str) -> str:
    """Return the value of an option so that it means the same in another working folder."""
    if data == _DIGITS:  # whatever else has that name
        return data
    if os.path.exists(data):
        return os.path.abspath(data)
    local = data.removeprefix(_HUGGING_FACE)
    if local != data:
        return _HUGGING_FACE + os.path.abspath(local) if os.path.exists(local) else data
    return os.path.abspath(data) if _names_shards(data) and not _has_scheme(data) else data


def _both(data: str, root: Path | None) -> Splits:
    path = Path(data)
    if _names_shards(data):
        _refuse_archive(path)
        raise ValueError(
            f"--data: got {data}, shards of one split, needs those of the other by --data-val"
        )
    if path.is_dir():
        if (path / SAVED).is_file():
            return Splits(*hugging_face_splits(data, root))
        tables = [_table(path, split) for split in _NAMES]
        train, val = tables
        if train is not None and val is not None:
            return Splits(*table_splits(train, val, root))
        if train is not None or val is not None:
            other = "val.csv" if val is None else "train.csv"
            raise ValueError(f"{train or val}: is a table of one split, needs {other} beside it")
        # Both are found before any is read, and the smaller one is read first: reading takes time.
        open_train, open_val = _in_folder(path, "train"), _in_folder(path, "val")
        opened = open_val()
        return Splits(open_train(), opened)
    if path.suffix.lower() == ".csv":
        return Splits(*table_splits(path, None, root))
    if data.startswith(_HUGGING_FACE):
        return Splits(*hugging_face_splits(data.removeprefix(_HUGGING_FACE), root))
    if data.startswith(_TORCHVISION):
        return Splits(*torchvision_splits(data, root))
    raise ValueError(
        f"--data {data} is neither a folder nor a data set that can be found: give a folder with "
        "train/ and val/ or the archives of ImageNet, a CSV file, shards (train-{000..146}.tar), "
        "`digits`, or a name such as torch/cifar10 or hfds/imagenet-1k"
    )


def _each(data: str, val: str, root: Path | None, lengths: tuple[int | None, int | None]) -> Splits:
    are_tables = [Path(one).suffix.lower() == ".csv" for one in (data, val)]
    if all(are_tables):
        return Splits(*table_splits(Path(data), Path(val), root))
    if any(are_tables):
        raise ValueError(
            "--data, --data-val: got a CSV file and something else, needs two of a kind"
        )
    if os.path.abspath(data) == os.path.abspath(val) or data == val:
        raise ValueError(f"--data-val: got {val}, which is --data too, needs images held out")
    return Splits(
        _one(data, "--data", lengths[0], "--epoch-length"),
        _one(val, "--data-val", lengths[1], "--val-length"),
    )


def _one(source: str, option: str, length: int | None, length_option: str) -> Split:
    if not _has_scheme(source) and Path(source).is_dir():
        return _in_split_folder(Path(source), None)
    if not _names_shards(source):
        raise ValueError(
            f"{option}: got {source}, needs a folder of one split, a CSV file or shards"
        )
    names = shard_names(source)
    if not is_streamed(source):
        return shard_images([Path(name) for name in names])
    if length is None:
        raise ValueError(
            f"{length_option}: got nothing, needs the number of images in {source}, which can only "
            "be read in order"
        )
    return ShardStream(names, length)


def _has_scheme(source: str) -> bool:
    return source.startswith("pipe:") or "://" in source


def _names_shards(source: str) -> bool:
    if _has_scheme(source):
        return True
    return not Path(source).is_dir() and source.lower().endswith((".tar", ".tar}"))


def _refuse_archive(path: Path) -> None:
    if path.name in _ARCHIVES.values():
        raise ValueError(
            f"--data: got {path}, an archive of one split, needs its folder, {path.parent}"
        )


# -- folders --------------------------------------------------------------------------------------


def _table(folder: Path, split: str) -> Path | None:
    """Return the split's table, if no folder of it goes before."""
    if any((folder / name).is_dir() for name in _NAMES[split]):
        return None
    paths = (folder / f"{name}.csv" for name in _NAMES[split])
    return next((path for path in paths if path.is_file()), None)


def _in_folder(folder: Path, split: str) -> Callable[[], ImageSet]:
    """Return what reads the images of a split, from the first of the places where they can be."""
    kit = imagenet.kit_in(folder)
    for name in _NAMES[split]:
        if (folder / name).is_dir():
            return partial(_in_split_folder, folder / name, kit)
    archive = folder / _ARCHIVES[split]
    if archive.is_file() and split == "train":
        return partial(imagenet.train_archive, archive)
    if archive.is_file():
        if kit is None:
            raise ValueError(f"{archive}: has no labels, needs {imagenet.KIT}.tar.gz beside it")
        return partial(imagenet.val_archive, archive, kit)
    shards = [path for path in _archives_in(folder) if split in _splits_of(path)]
    both = next((path for path in shards if len(_splits_of(path)) == 2), None)
    if both is not None:
        raise ValueError(f"{both}: has the names of both splits, needs --data and --data-val")
    if shards:
        return partial(shard_images, shards)
    raise ValueError(_missing(folder, split))


def _in_split_folder(folder: Path, kit: Path | None) -> ImageSet:
    """Return the images in a folder of one split: class folders, class archives, shards or flat."""
    entries = [entry for entry in os.scandir(folder) if not is_hidden(entry.name)]
    if not any(entry.is_dir() for entry in entries):
        archives = _archives_in(folder)
        if archives:
            _refuse_archive(archives[0])
            return (
                shard_images(archives)
                if looks_like_shard(archives[0])
                else class_archives(archives)
            )
        image = next((e.name for e in entries if is_image_name(Path(e.name))), None)
        if image is not None and kit is not None:
            return imagenet.flat_folder(folder, kit)
        if image is not None:
            raise ValueError(
                f"{folder}: holds images without folders of their classes ({image}, …), needs "
                f"{folder.name}/<class>/<image>, or {imagenet.KIT}.tar.gz beside it, if they are "
                "ImageNet's for validation"
            )
    return class_folders(folder)


def _splits_of(shard: Path) -> set[str]:
    """Return the splits of which a shard's name has a name as a word."""
    if shard.name in _ARCHIVES.values():
        return set()
    words = re.findall("[a-z]+", shard.name.lower())
    return {split for split, names in _NAMES.items() if not {*names}.isdisjoint(words)}


def _archives_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() == ".tar" and not is_hidden(path.name) and path.is_file()
    )


def _missing(folder: Path, split: str) -> str:
    """Say what a folder lacks, and what it holds instead, where that can be recognised."""
    names, archive = _NAMES[split], _ARCHIVES[split]
    needs = [f"{names[0]}/<class>/<image>", f"{names[0]}/<class>.tar", f"{names[0]}.csv", archive]
    fault = (
        f"--data: got {folder}, which has no {split} images, needs {', '.join(needs)} or shards "
        f"*{names[0]}*.tar"
    )
    here = folder.resolve()
    siblings = [name for pair in _NAMES.values() for name in pair]
    if here.name in siblings and any(
        (here.parent / n).is_dir() for n in siblings if n != here.name
    ):
        return f"{fault}; it is one split itself: name {here.parent}"
    inner = next((p for p in sorted(here.iterdir()) if p.is_dir() and (p / "train").is_dir()), None)
    if inner is not None:
        return f"{fault}; {inner} has train/: name that"
    classes = [p.name for p in sorted(here.iterdir()) if p.is_dir() and not is_hidden(p.name)]
    if classes and not {*siblings} & {*classes}:
        return f"{fault}; its folders ({_listed(classes)}) look like classes: put them into train/"
    archives = [path.name for path in _archives_in(here) if path.name not in _ARCHIVES.values()]
    if archives:
        return f"{fault}; its archives ({_listed(archives)}) have no name of a split"
    return fault


# -- classes --------------------------------------------------------------------------------------


def _check_classes(splits: Splits) -> None:
    train, val = splits.train, splits.val
    if train.class_names == val.class_names:
        return
    if train.class_names is None or val.class_names is None:
        raise ValueError("one of training and validation has names of classes, the other numbers")
    differing = sorted({*train.class_names} ^ {*val.class_names})
    if not differing:
        raise ValueError("training and validation have their classes in different orders")
    only = [name for name in differing if name in train.class_names]
    where = "training" if len(only) == len(differing) else "both"
    if not only:
        where = "validation"
    raise ValueError(
        f"training and validation differ in their classes, first of all {differing[:_SHOWN]}, "
        f"which {'are each only in one of them' if where == 'both' else f'only {where} has'}"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
