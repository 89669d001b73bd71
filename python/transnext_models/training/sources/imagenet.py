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

__all__ = [
    "KIT",
    "TRAIN_ARCHIVE",
    "VAL_ARCHIVE",
    "flat_folder",
    "kit_in",
    "train_archive",
    "val_archive",
    "validation_classes",
    "validation_number",
]

TRAIN_ARCHIVE = "ILSVRC2012_img_train.tar"
VAL_ARCHIVE = "ILSVRC2012_img_val.tar"
KIT = "ILSVRC2012_devkit_t12"
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_CLASSES = "data/meta.mat"
_FIRST = "ILSVRC2012_val_00000001.JPEG"
_LARGEST_KIT_FILE = 1 << 26
_VAL_NAME = re.compile(r"ILSVRC2012_val_([0-9]{8})(?![0-9])", re.IGNORECASE)


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
        with opened(path) as region:
            found = list(members(region, str(path)))
        packed = next((member.name for member in found if member.name.endswith(".tar")), None)
        if packed is not None:
            raise ArchiveError(str(path), f"holds archives ({packed}), needs images {_FIRST}, …")
        found = list(images_of(iter(found)))
        classes = validation_classes([member.name for member in found], path, kit)
        for member, name in zip(found, classes, strict=True):
            image = PurePosixPath(member.name).name
            yield class_entry(name, 0, member._replace(name=image))

    return ArchivedImages([path], indexed("validation archive", [path, *_files_of(kit)], entries))


def flat_folder(root: Path, kit: Path) -> ImageSet:
    """Return the validation images of a folder that has none of their classes; as `val_archive`."""
    names = list(images_below(root))
    found = list(zip(validation_classes(names, root, kit), names, strict=True))
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
    if validation_number(member.name) is not None:
        raise ArchiveError(
            str(path), f"holds validation images ({member.name}), needs archives <class>.tar"
        )


def kit_in(folder: Path) -> Path | None:
    """Return the kit in a folder, packed or not; None where there is none."""
    names = (f"{KIT}.tar.gz", KIT)
    return next((folder / name for name in names if (folder / name).exists()), None)


def validation_number(path: str) -> int | None:
    """Return the number in the name of a validation image; None for another name."""
    match = _VAL_NAME.match(PurePosixPath(path).name)
    return int(match[1]) if match else None


def validation_classes(
    names: Sequence[str], where: Path, kit: Path, *, are_all: bool = True
) -> list[str]:
    """Return the class of each validation image, to which its number leads.

    Parameters
    ----------
    names : Sequence[str]
        Of the images, with or without folders.
    where, kit : Path
        What holds the images; the development kit, packed or not.
    are_all : bool
        Whether images that the kit lists must be there.

    Raises
    ------
    ArchiveError
        A name has no number, or images and kit do not belong together.
    """
    truth = _ground_truth(kit)
    numbers = [validation_number(name) for name in names]
    strange = next((name for name, n in zip(names, numbers, strict=True) if n is None), None)
    if strange is not None:
        raise ArchiveError(str(where), f"holds {strange}, needs images {_FIRST}, …")
    found, listed = {number for number in numbers if number is not None}, range(1, len(truth) + 1)
    missing = sorted({*listed} - found) if are_all else []
    if missing or not found <= {*listed} or len(names) > len(found):
        what = f", number {missing[0]} is missing" if missing else ""
        raise ArchiveError(
            str(where), f"holds {len(names)} images{what}, needs the {len(truth)} that {kit} lists"
        )
    return [truth[number - 1] for number in numbers if number is not None]


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
