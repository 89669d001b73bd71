"""What kind of annotations a folder holds, and the two splits of them.

--data, a folder                    what there has to be, the first of these
----------------------------------  ---------------------------------------------------------------
YOLO                                *.yaml with `names`, `train` and `val`
COCO                                annotations/instances_<split>*.json with <split>*/, the
                                    <split>*.zip or .tar of the download, or images/;
                                    <split>/_annotations.coco.json; annotations/<split>.json;
                                    <split>.json
Pascal VOC                          Annotations/, JPEGImages/, ImageSets/Main/<split>.txt; or
                                    <split>/*.xml beside the images
instance maps                       images/<split>/ and instances/<split>/, or <split>/images/ and
                                    <split>/instances/; label maps in classes/ beside instances/
label maps (segmentation)           the same with masks/ or annotations/; Pascal VOC's
                                    SegmentationClass/ and ImageSets/Segmentation/<split>.txt;
                                    ADE20K's images/ and annotations/ (`training`, `validation`);
                                    all of it also in a zip or tar, which is then --data, or
                                    ADEChallengeData2016.zip in the folder

Splits are called train or training; val, valid or validation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from ..dense.classes import class_names
from ..training.sampling import shuffled_order
from .archived import is_archive, is_folder
from .coco import read_coco
from .errors import AnnotationError
from .images_by_name import images_by_stem
from .masks import ADE20K_CLASSES, mask_class_names, read_instance_maps, read_label_maps
from .records import AnnotatedSet
from .report import Report
from .voc import listed_files, listed_names, read_voc, voc_class_names
from .yolo import read_yolo, yolo_description, yolo_images

__all__ = ["DenseSplits", "open_annotations", "open_validation"]

Task = Literal["detect", "segment"]

_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation")}
_MASKS = ("masks", "annotations", "labels")
_ADE20K_DOWNLOAD = "ADEChallengeData2016.zip"
_FOUND = "COCO JSON, YOLO txt with data.yaml, Pascal VOC XML, mask images"


@dataclass(frozen=True)
class DenseSplits:
    """The images of training and of validation, with the same classes in the same order.

    Attributes
    ----------
    train, val : AnnotatedSet
    kind : str
        ``COCO``, ``YOLO``, ``Pascal VOC``, ``instance maps`` or ``label maps``.
    """

    train: AnnotatedSet
    val: AnnotatedSet
    kind: str


class _How(NamedTuple):
    """How a folder is read.

    Attributes
    ----------
    allow_missing : bool
        See `open_annotations`.
    val : {"val", "train"}
        The split that is read for validation.
    """

    allow_missing: bool = False
    val: str = "val"


def open_annotations(
    data: str | Path,
    task: Task,
    *,
    allow_missing: bool = False,
    val_share: float | None = None,
    seed: int = 0,
) -> DenseSplits:
    """Find and read the annotations of both splits.

    Parameters
    ----------
    data : str | Path
        A folder, see above.
    task : {"detect", "segment"}
        Whether objects or label maps are looked for.
    allow_missing : bool
        Whether images without a file are left out, and counted, rather than an error.
    val_share : float | None
        The share of the training images that are held back for validation; None where the folder
        has a split for it.
    seed : int
        Decides which.

    Raises
    ------
    ValueError
        It is no folder, holds nothing of the kind, or has too few images to hold some back.
    AnnotationError
        What it holds is broken, or a split or its classes do not fit the other's.
    """
    root = _folder(data, task)
    finders = (_yolo, _coco, _voc, _instances) if task == "detect" else (_label_maps,)
    for find in finders:
        splits = find(root, _How(allow_missing, "val" if val_share is None else "train"))
        if splits is not None:
            _check_classes(splits)
            return splits if val_share is None else _held_back(splits, val_share, seed)
    for_task = "" if task == "detect" else ": mask images with a class for each pixel"
    raise ValueError(f"--data: {data} holds none of {_FOUND}{for_task}")


def open_validation(
    data: str | Path, task: Task, *, allow_missing: bool = False
) -> tuple[AnnotatedSet, str]:
    """Find and read the annotations of validation, and return what kind they are too.

    Of COCO's and ADE20K's layouts, whose training split is large, that one need not be there. The
    kind of the latter is ``ADE20K``; its 150 classes are called by their names.

    Parameters
    ----------
    data, task, allow_missing
        As `open_annotations` takes them.

    Raises
    ------
    ValueError, AnnotationError
        As `open_annotations`.
    """
    root = _folder(data, task)
    if task == "segment":
        folders = root / "images" / "validation", root / "annotations" / "validation"
        if all(map(is_folder, folders)):
            names = mask_class_names(root) or class_names(ADE20K_CLASSES)
            return read_label_maps(*folders, names, zero_is_other=True), "ADE20K"
    elif not _yolo_files(root):
        files = (_coco_file(root, name) for name in _NAMES["val"])
        file = next((file for file in files if file is not None), None)
        if file is not None:
            images = _coco_images(root, file, "val")
            return read_coco(file, images, allow_missing=allow_missing), "COCO"
    splits = open_annotations(root, task, allow_missing=allow_missing)
    return splits.val, splits.kind


def _folder(data: str | Path, task: Task) -> Path:
    """Return where the set is; an archive of label maps is a folder too."""
    root = Path(data)
    if task == "segment":
        download = root / _ADE20K_DOWNLOAD
        if is_archive(download) and not (root / "images").is_dir():
            return download
        if is_archive(root):
            return root
    if not root.is_dir():
        needed = "a folder, a zip or a tar" if task == "segment" else "a folder"
        raise ValueError(f"--data: got {data}, needs {needed}")
    return root


def _yolo(root: Path, how: _How) -> DenseSplits | None:
    for file in _yolo_files(root):
        description = yolo_description(file)
        if description is not None:
            names = description["names"]
            train, val = (
                read_yolo(yolo_images(file, description, split), names)
                for split in ("train", how.val)
            )
            return DenseSplits(train, val, "YOLO")
    return None


def _yolo_files(root: Path) -> list[Path]:
    return sorted((*root.glob("*.yaml"), *root.glob("*.yml")))


def _coco(root: Path, how: _How) -> DenseSplits | None:
    found = _both(root, _coco_file, how)
    if found is None:
        return None
    train, val = (
        read_coco(file, _coco_images(root, file, split), allow_missing=how.allow_missing)
        for split, file in zip(("train", how.val), found, strict=True)
    )
    return DenseSplits(train, val, "COCO")


def _coco_file(root: Path, name: str) -> Path | None:
    files = (
        *sorted((root / "annotations").glob(f"instances_{name}[0-9]*.json")),
        root / "annotations" / f"instances_{name}.json",
        root / name / "_annotations.coco.json",
        root / "annotations" / f"{name}.json",
        root / f"{name}.json",
    )
    return next((file for file in files if file.is_file()), None)


def _coco_images(root: Path, file: Path, split: str) -> Path:
    stem = file.stem.removeprefix("instances_")
    folders = [file.parent] if file.name == "_annotations.coco.json" else []
    folders += [root / stem, root / "images" / stem]
    for name in _NAMES[split]:
        folders += [root / name, root / "images" / name, *sorted(root.glob(f"{name}[0-9]*"))]
    folders += [root / "images", root]
    archives = (root / f"{stem}{suffix}" for suffix in (".zip", ".tar"))
    unpacked = folders[:-2]
    places = (*filter(Path.is_dir, unpacked), *filter(is_archive, archives), *folders[-2:])
    return next(place for place in places if place.exists())


def _voc(root: Path, how: _How) -> DenseSplits | None:
    annotations = root / "Annotations"
    if annotations.is_dir():
        lists = _both(root / "ImageSets" / "Main", _listing, how)
        if lists is None:
            raise AnnotationError(root, "", "has Annotations/, needs ImageSets/Main/train.txt too")
        both = [listed_files(listing, annotations) for listing in lists]
        folders = [root / "JPEGImages"] * 2
    else:
        found = _both(root, _folder_of_xml, how)
        if found is None:
            return None
        folders = list(found)
        both = [sorted(folder.glob("*.xml")) for folder in folders]
    names = voc_class_names([file for files in both for file in files])
    if not names:
        raise AnnotationError(root, "", "has no object in any XML file")
    train, val = (
        read_voc(files, folder, names, allow_missing=how.allow_missing)
        for files, folder in zip(both, folders, strict=True)
    )
    return DenseSplits(train, val, "Pascal VOC")


def _listing(folder: Path, name: str) -> Path | None:
    return file if (file := folder / f"{name}.txt").is_file() else None


def _folder_of_xml(root: Path, name: str) -> Path | None:
    folder = root / name
    return folder if folder.is_dir() and next(folder.glob("*.xml"), None) else None


def _instances(root: Path, how: _How) -> DenseSplits | None:
    found = _both(root, lambda _, name: _pair(root, name, ("instances",)), how)
    if found is None:
        return None
    names = mask_class_names(root)
    train, val = (
        read_instance_maps(images, instances, _beside(instances), names)
        for images, instances in found
    )
    return _of_both(train, val, "instance maps", names)


def _beside(instances: Path) -> Path | None:
    """Return the folder of label maps that belong to instance maps."""
    folder = Path(*("classes" if part == "instances" else part for part in instances.parts))
    return folder if folder.is_dir() else None


def _label_maps(root: Path, how: _How) -> DenseSplits | None:
    names = mask_class_names(root)
    listed = root / "SegmentationClass"
    if listed.is_dir():
        lists = _both(root / "ImageSets" / "Segmentation", _listing, how)
        if lists is None:
            raise AnnotationError(listed, "", "needs ImageSets/Segmentation/train.txt beside it")
        train, val = (
            read_label_maps(root / "JPEGImages", listed, names, only=listed_names(listing))
            for listing in lists
        )
        return _of_both(train, val, "label maps", names)
    found = _both(root, lambda _, name: _pair(root, name, _MASKS), how)
    if found is None:
        return None
    is_ade20k = is_folder(root / "annotations" / "training")
    if is_ade20k and names is None:
        names = tuple(f"class {number}" for number in range(ADE20K_CLASSES))
    train, val = (
        read_label_maps(images, masks, names, zero_is_other=is_ade20k) for images, masks in found
    )
    return _of_both(train, val, "label maps", names)


def _of_both(
    train: AnnotatedSet, val: AnnotatedSet, kind: str, names: tuple[str, ...] | None
) -> DenseSplits:
    """Give both splits the classes of the one that has more, where they are only numbers."""
    if names is None:
        more = max(train, val, key=lambda split: split.num_classes)
        for split in (train, val):
            split.class_names, split.category_ids = more.class_names, more.category_ids
    return DenseSplits(train, val, kind)


def _pair(root: Path, name: str, kinds: tuple[str, ...]) -> tuple[Path, Path] | None:
    for kind in kinds:
        for images, masks in (
            (root / "images" / name, root / kind / name),
            (root / name / "images", root / name / kind),
        ):
            if is_folder(images) and is_folder(masks) and images_by_stem(masks):
                return images, masks
    return None


T = TypeVar("T")


def _both(root: Path, find: Callable[[Path, str], T | None], how: _How) -> tuple[T, T] | None:
    """Return what `find` gives for both splits, None where there is neither."""
    train, val = (
        next((found for name in names if (found := find(root, name)) is not None), None)
        for names in (_NAMES["train"], _NAMES[how.val])
    )
    if train is None and val is None:
        return None
    if train is None or val is None:
        lacking = "train" if train is None else "val"
        hint = "" if train is None else ", or --val-share 0.2 to hold images back for it"
        raise AnnotationError(root, "", f"has one split, needs {lacking!r} too{hint}")
    return train, val


def _held_back(splits: DenseSplits, share: float, seed: int) -> DenseSplits:
    """Return the training split in two."""
    images = splits.train.images
    count = max(1, round(share * len(images)))
    if count >= len(images):
        raise ValueError(
            f"--val-share: got {share}, needs less: {len(images)} images leave none to train on"
        )
    order = shuffled_order(len(images), seed, 0).tolist()
    held, kept = sorted(order[:count]), sorted(order[count:])
    return replace(
        splits,
        train=replace(splits.train, images=[images[index] for index in kept]),
        val=replace(
            splits.val, images=[splits.val.images[index] for index in held], report=Report()
        ),
    )


def _check_classes(splits: DenseSplits) -> None:
    train, val = splits.train, splits.val
    if (train.class_names, train.category_ids) == (val.class_names, val.category_ids):
        return
    differing = [
        n
        for n in train.class_names + val.class_names
        if (n in train.class_names) != (n in val.class_names)
    ]
    detail = ", ".join(differing[:5]) or "their order or ids"
    raise AnnotationError(val.source, "", f"has other classes than {train.source}: {detail}")
