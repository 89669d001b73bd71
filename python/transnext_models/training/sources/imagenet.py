"""ImageNet as it is downloaded: an archive of archives, a flat archive, a kit with the labels.

| file | what |
| --- | --- |
| `ILSVRC2012_img_train.tar` | 1000 archives `<wnid>.tar` of images |
| `ILSVRC2012_img_val.tar` | images `ILSVRC2012_val_00000001.JPEG`, … |
| `ILSVRC2012_devkit_t12.tar.gz` | `data/ILSVRC2012_validation_ground_truth.txt`, `data/meta.mat` |

Line i of the ground truth is the number that ILSVRC2012 gave the class of validation image i, and
`meta.mat` has the WordNet names of these numbers. Labels are other numbers: the places of the names
in their order.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import numpy as np

from ...images import is_hidden
from .archive_index import Entry, indexed
from .archives import ArchivedImages, class_entry, images_of, opened
from .classes import image_key, in_order
from .folders import Files, images_below
from .image_set import ImageSet
from .packed_names import PackedNames
from .requirements import needed
from .tar_members import ArchiveError, Region, Stream, members

__all__ = ["KIT", "TRAIN_ARCHIVE", "VAL_ARCHIVE", "flat_folder", "train_archive", "val_archive"]

TRAIN_ARCHIVE = "ILSVRC2012_img_train.tar"
VAL_ARCHIVE = "ILSVRC2012_img_val.tar"
KIT = "ILSVRC2012_devkit_t12"
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_CLASSES = "data/meta.mat"
_FIRST = "ILSVRC2012_val_00000001.JPEG"
_LARGEST_KIT_FILE = 1 << 26
_VAL_NAME = re.compile(r"ILSVRC2012_val_([0-9]{8})\.JPEG", re.IGNORECASE)


def train_archive(path: Path) -> ArchivedImages:
    """Return the images of the training archive.

    Raises
    ------
    ArchiveError
        It is damaged, or holds images rather than archives of them.
    """

    def entries() -> Iterator[Entry]:
        with opened(path) as region:
            outer = list(members(region, str(path)))  # to its end, before millions of images
            found = False
            for member in outer:
                inner = PurePosixPath(member.name)
                if is_hidden(inner.name) or inner.suffix.lower() != ".tar":
                    _refuse_images(path, inner)
                    continue
                found = True
                within = Region(region.descriptor, member.offset, member.offset + member.size)
                images = images_of(members(within, f"{path}: {member.name}"))
                yield from (class_entry(inner.stem, 0, image) for image in images)
            if not found:
                raise ArchiveError(str(path), "holds no archives <class>.tar")

    return ArchivedImages([path], indexed("archive of class archives", [path], entries))


def val_archive(path: Path, kit: Path) -> ArchivedImages:
    """Return the images of the validation archive, with the labels of the kit.

    Raises
    ------
    ValueError
        One of them is damaged, or they do not belong together.
    """

    def entries() -> Iterator[Entry]:
        truth = _ground_truth(kit)
        with opened(path) as region:
            found = list(members(region, str(path)))
        packed = next((member.name for member in found if member.name.endswith(".tar")), None)
        if packed is not None:
            raise ArchiveError(str(path), f"holds archives ({packed}), needs images {_FIRST}, …")
        found = list(images_of(iter(found)))
        classes = _classes_of([member.name for member in found], truth, path, kit)
        for member, name in zip(found, classes, strict=True):
            image = PurePosixPath(member.name).name
            yield class_entry(name, 0, member._replace(name=image))

    return ArchivedImages([path], indexed("validation archive", [path, *_files_of(kit)], entries))


def flat_folder(root: Path, kit: Path) -> ImageSet:
    """Return the validation images of a folder that has none of their classes; as `val_archive`."""
    names = list(images_below(root))
    truth = _ground_truth(kit)
    found = list(zip(_classes_of(names, truth, root, kit), names, strict=True))
    classes = in_order({name for name, _ in found})
    labels = {name: label for label, name in enumerate(classes)}
    found.sort(key=lambda one: (labels[one[0]], image_key(one[1])))
    return Files(
        root,
        PackedNames.of(name for _, name in found),
        np.array([labels[name] for name, _ in found], np.int32),
        classes,
    )


def _files_of(kit: Path) -> list[Path]:
    return [kit / _GROUND_TRUTH, kit / _CLASSES] if kit.is_dir() else [kit]


def _refuse_images(path: Path, member: PurePosixPath) -> None:
    """Say which archive this is, if one lies under another's name."""
    if _VAL_NAME.fullmatch(member.name):
        raise ArchiveError(
            str(path), f"holds validation images ({member.name}), needs archives <class>.tar"
        )


def _classes_of(
    names: Sequence[str], truth: Sequence[str], where: Path, kit: Path
) -> Iterator[str]:
    """Yield the class of each validation image, which its number leads to."""
    numbers = set()
    for name in names:
        match = _VAL_NAME.fullmatch(PurePosixPath(name).name)
        if match is None:
            raise ArchiveError(str(where), f"holds {name}, needs images {_FIRST}, …")
        numbers.add(int(match[1]))
    if numbers != set(range(1, len(truth) + 1)) or len(names) != len(truth):
        missing = sorted(set(range(1, len(truth) + 1)) - numbers)
        what = f", number {missing[0]} is missing" if missing else ""
        raise ArchiveError(
            str(where), f"holds {len(names)} images{what}, needs the {len(truth)} that {kit} lists"
        )
    for name in names:
        yield truth[int(PurePosixPath(name).stem[-8:]) - 1]


def _ground_truth(kit: Path) -> list[str]:
    """Return the WordNet name of the class of each validation image."""
    content = _kit_content(kit)
    classes = _class_numbers(content[_CLASSES], kit)
    lines = content[_GROUND_TRUTH].decode("ascii", "replace").split()
    unknown = next((line for line in lines if line not in classes), None)
    if unknown is not None or not lines:
        raise ArchiveError(
            str(kit), f"{_GROUND_TRUTH}: got {unknown!r}, needs a class's number in each line"
        )
    return [classes[line] for line in lines]


def _class_numbers(content: bytes, kit: Path) -> dict[str, str]:
    """Return the names of the classes that have images, by their numbers."""
    loadmat = needed("scipy.io", "train", f"{kit}: reading the classes").loadmat
    try:
        synsets = loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]
        columns = (synsets[name].tolist() for name in ("ILSVRC2012_ID", "WNID", "num_children"))
        return {
            str(int(number)): str(name)
            for number, name, children in zip(*columns, strict=True)
            if int(children) == 0
        }
    except Exception as error:  # SciPy meets damaged files with almost anything
        fault = f"{_CLASSES}: holds no classes of ILSVRC2012 ({type(error).__name__}: {error})"
        raise ArchiveError(str(kit), fault) from error


def _kit_content(kit: Path) -> dict[str, bytes]:
    """Read the two files that matter of the kit, packed or not."""
    try:
        found = dict(_unpacked(kit) if kit.is_dir() else _packed(kit))
    except (OSError, EOFError, zlib.error) as error:
        raise ArchiveError(str(kit), f"cannot be read ({error})") from error
    missing = {_GROUND_TRUTH, _CLASSES} - found.keys()
    if missing:
        raise ArchiveError(str(kit), f"has no {min(missing)}")
    return found


def _unpacked(kit: Path) -> Iterator[tuple[str, bytes]]:
    for name in (_GROUND_TRUTH, _CLASSES):
        yield name, (kit / name).read_bytes()


def _packed(kit: Path) -> Iterator[tuple[str, bytes]]:
    with gzip.open(kit) as file:
        source = Stream(cast(BinaryIO, file))
        for member in members(source, str(kit)):
            name = "/".join(PurePosixPath(member.name).parts[-2:])
            if name in (_GROUND_TRUTH, _CLASSES):
                if member.size > _LARGEST_KIT_FILE:
                    raise ArchiveError(str(kit), f"its {name} has {member.size:,} bytes")
                yield name, source.read(member.size)
