"""Archives from anywhere: what does not belong in a data set is an error that names the archive."""

from __future__ import annotations

import io
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hostile_archives import END, FILE, header, hostile, sealed
from training.image_layouts import LAYOUTS, add, archive_of, as_downloaded, noise
from transnext_models.training.sources import ImageSet, archive_index, open_splits
from transnext_models.training.sources.archives import archive_members, class_archives
from transnext_models.training.sources.tar_members import ArchiveError, Stream, members

CLASSES = [f"n{number:08d}" for number in range(3)]


# -- hostile archives -----------------------------------------------------------------------------


@hostile
def test_a_hostile_archive_is_an_error_that_names_it(
    content: bytes, fault: str, tmp_path: Path
) -> None:
    path = tmp_path / "ant.tar"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=fault) as caught:
        list(archive_members(path))
    assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(ArchiveError, match=fault):  # and no index of it is kept
        class_archives([path])
    with pytest.raises(ArchiveError):
        class_archives([path])


@hostile
def test_a_hostile_stream_is_an_error_that_names_it(content: bytes, fault: str) -> None:
    with pytest.raises(ArchiveError, match="pipe:command: "):
        list(members(Stream(io.BytesIO(content)), "pipe:command"))


@hostile
def test_a_hostile_archive_within_the_archive(content: bytes, fault: str, tmp_path: Path) -> None:
    """It ends where it ends: what follows it in the archive around it is not its own."""
    images = noise(CLASSES, train=1, val=1)
    source = as_downloaded(images, tmp_path / "data")
    inner = {f"{CLASSES[0]}.tar": content, f"{CLASSES[1]}.tar": FILE + END}
    (tmp_path / "data" / "ILSVRC2012_img_train.tar").write_bytes(archive_of(inner))
    where = rf"--data {source}: {source}/ILSVRC2012_img_train.tar: {CLASSES[0]}.tar: "
    with pytest.raises(ValueError, match=where):
        open_splits(source)


def test_any_damage_is_an_error_or_harmless() -> None:
    """Bytes changed at random, mostly of headers whose checksum is made right again."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for index in range(4):
            add(archive, f"{'long/' * 30 * (index % 2)}{index}é.jpg", bytes(700))
    whole = packed.getvalue()
    at = [start for start in range(0, len(whole), 512) if whole[start + 257 :][:5] == b"ustar"]
    assert len(at) >= 8
    chance = random.Random(0)
    errors = 0
    for _ in range(3000):
        damaged = bytearray(whole)
        start = chance.choice(at)
        for _ in range(chance.randint(1, 4)):
            damaged[start + chance.randrange(512)] = chance.randrange(256)
        if chance.random() < 0.8:
            damaged[start : start + 512] = sealed(damaged[start : start + 512])
        if chance.random() < 0.1:
            del damaged[chance.randrange(len(damaged)) :]
        try:
            found = list(members(Stream(io.BytesIO(bytes(damaged))), "archive"))
        except ArchiveError:
            errors += 1
        else:
            assert len(found) <= len(at)
            assert all(one.size >= 0 and one.offset + one.size <= len(whole) for one in found)
    assert errors > 500


def test_memory_does_not_follow_what_headers_claim(tmp_path: Path) -> None:
    """A sparse file of 3 GiB stands for an archive whose headers claim as much."""
    import tracemalloc

    path = tmp_path / "ant.tar"
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE):
        with path.open("wb") as file:
            file.write(header(kind=kind, size=3 << 30))
            file.truncate((3 << 30) + 4096)
        tracemalloc.start()
        with pytest.raises(ArchiveError, match="has a header of 3,221,225,472 bytes"):
            list(archive_members(path))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20
    with path.open("wb") as file:  # an image of that size is left where it is
        file.write(header(size=3 << 30))
        file.truncate((3 << 30) + 512 + 1024)
    images = class_archives([path])
    tracemalloc.start()
    with pytest.raises(Exception, match="has 3,072 MiB"):
        images[0]
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


# -- ordinary archives ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_tarfile(form: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=form) as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for index in range(5):
            long = "n/" * 45 if form == tarfile.USTAR_FORMAT else "long/" * 60
            name = ("plain.jpg", f"./dot/{index}.jpg", f"{long}{index}.jpg", "ü.jpg", "x")[index]
            add(archive, name, os.urandom(300 * index))
    found = list(archive_members(path))
    with tarfile.open(path) as archive:
        expected = [
            (one.name.removeprefix("./"), one.offset_data, one.size)
            for one in archive
            if one.isfile()
        ]
    assert [tuple(one) for one in found] == expected
    with path.open("rb") as file:
        streamed = list(members(Stream(file), "a"))
    assert streamed == found


def test_what_is_no_image_of_a_class_is_passed_over(tmp_path: Path) -> None:
    files = {
        "ant/2.jpg": b"2",
        "readme.txt": b"",
        "ant/._1.jpg": b"",
        "__MACOSX/1.jpg": b"",
        "1.JPEG": b"1",
    }
    (tmp_path / "ant.tar").write_bytes(archive_of(files))
    images = class_archives([tmp_path / "ant.tar"])
    names = [images.name(index) for index in range(len(images))]
    assert names == [f"{tmp_path}/ant.tar: ant/{name}" for name in ("1.JPEG", "2.jpg")]


def test_more_archives_than_may_be_open(tmp_path: Path) -> None:
    """They are read from in turn, through 64 descriptors."""
    content = noise([f"c{number}" for number in range(150)], train=1, val=1)
    splits = open_splits(LAYOUTS["class archives"](content, tmp_path / "data"))
    before = len(os.listdir("/dev/fd"))
    for _ in range(2):
        for index in range(150):
            splits.train[index]
    assert len(os.listdir("/dev/fd")) <= before + 64
    del splits
    assert len(os.listdir("/dev/fd")) <= before


# -- the kept index -------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "ant.tar"
    path.write_bytes(archive_of({f"{index}.jpg": bytes([index]) for index in range(5)}))
    return path


def refuse(*_: object) -> None:
    raise AssertionError("the archive was read")


def names(images: ImageSet) -> list[str]:
    return [images.name(index) for index in range(len(images))]


def test_an_index_is_made_once(archive: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = names(class_archives([archive]))
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(archive_index, "_made", refuse)
    again = class_archives([archive])
    assert names(again) == expected
    assert again.class_names == ("ant",)


@pytest.mark.parametrize("how", ["cut", "text", "empty", "other arrays", "objects"])
def test_a_damaged_index_is_rebuilt(archive: Path, cache: Path, how: str) -> None:
    expected = names(class_archives([archive]))
    kept = next(cache.iterdir())
    content = kept.read_bytes()
    if how == "other arrays":
        np.savez(kept, letters=np.zeros(3, np.uint8))
    elif how == "objects":
        with np.load(kept) as arrays:
            np.savez(kept, **{**arrays, "labels": np.array([Evil()] * 5, dtype=object)})
    else:
        kept.write_bytes({"cut": content[: len(content) // 2], "text": b"x", "empty": b""}[how])
    assert names(class_archives([archive])) == expected
    assert kept.read_bytes() == content


class Evil:
    """Unpickling it would say so."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[()]]:
        return refuse, ()


def test_an_archive_that_has_changed_has_another_index(archive: Path) -> None:
    before = names(class_archives([archive]))
    archive.write_bytes(archive_of({"7.jpg": b"7"}))
    assert names(class_archives([archive])) != before


def test_an_archive_that_has_become_shorter_since(archive: Path) -> None:
    images = class_archives([archive])
    os.truncate(archive, 600)
    with pytest.raises(Exception, match=r"ant/4.jpg: the archive has become shorter"):
        images[4]


def test_no_index_is_kept_where_none_can_be(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(class_archives([archive])) == 5
