"""Sets that are downloaded compressed: a gzip'ed tar and a zip give the rows of the folder."""

from __future__ import annotations

import gzip
import io
import pickle
import shutil
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation.made_up_sets import paint_classes, painted, rows_of
from hostile_archives import END, header, hostile
from training.image_layouts import archive_of
from transnext_models.evaluation.class_lists import wnids
from transnext_models.evaluation.trees import Tree, open_tree
from transnext_models.training.sources import decompressed, zip_archive

NUMBERS = [str(number) for number in range(1000)]  # of ImageNet-V2's folders
LABELS = (0, 1, 2, 9, 10, 11, 100, 999)  # as text 10, 100 and 11 lie between 1 and 2


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "transnext"


def gzipped(root: Path, file: Path, inside: str) -> Path:
    file.parent.mkdir(exist_ok=True)
    with tarfile.open(file, "w:gz") as archive:
        archive.add(root, inside)
    return file


def zipped(root: Path, file: Path, inside: str, method: int = zipfile.ZIP_DEFLATED) -> Path:
    file.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(f"{inside}/", b"")
        for path in root.rglob("*"):
            archive.write(path, f"{inside}/{path.relative_to(root)}")
    return file


def stored(root: Path, file: Path, inside: str) -> Path:
    return zipped(root, file, inside, zipfile.ZIP_STORED)


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 -- the message is looked at by callers
        open_tree("a", path)
    text = str(raised.value)
    assert text.startswith(f"a: got {path}, needs a folder, a tar or a zip: ")
    return text


# -- ordinary archives ----------------------------------------------------------------------------


def test_all_variants_of_v2_as_downloaded(tmp_path: Path) -> None:
    """The number of a folder is the label; in the order of text accuracy would be by chance."""
    names = ("matched-frequency", "threshold-0.7", "top-images")
    for right, name in enumerate(names, start=3):
        paint_classes(tmp_path / name, LABELS, right=right, names=NUMBERS)
        inside = f"imagenetv2-{name}-format-val"
        gzipped(tmp_path / name, tmp_path / "v2" / f"imagenetv2-{name}.tar.gz", inside)
    rows = rows_of(tmp_path, v2=tmp_path / "v2", v2_variants=names)
    assert [(row["set"], row["details"]["correct1"]) for row in rows] == [
        (f"imagenetv2-{name}", right) for right, name in enumerate(names, start=3)
    ]
    file = tmp_path / "v2" / "imagenetv2-matched-frequency.tar.gz"
    (row,) = rows_of(tmp_path / "1", v2=file)
    assert row["details"]["correct1"] == 3
    assert row["details"]["per_class"] == rows[0]["details"]["per_class"]


@pytest.mark.parametrize(
    ("pack", "name"),
    [(gzipped, "set.tar.gz"), (gzipped, "set.tgz"), (gzipped, "set.tar"), (zipped, "set.zip"),
     (stored, "set.zip"), (zipped, "set")],
)  # fmt: skip
def test_an_archive_is_the_folder(
    pack: Callable[[Path, Path, str], Path], name: str, tmp_path: Path
) -> None:
    """What it is follows from its content."""
    paint_classes(tmp_path / "folder", LABELS, right=5)
    file = pack(tmp_path / "folder", tmp_path / "packed" / name, "sketch")
    (expected,) = rows_of(tmp_path / "1", sketch=tmp_path / "folder")
    (found,) = rows_of(tmp_path / "2", sketch=file)
    assert found["details"]["per_class"] == expected["details"]["per_class"]
    assert found["note"] == expected["note"]


@pytest.mark.parametrize("pack", [gzipped, zipped])
def test_a_tree_goes_to_other_processes(
    pack: Callable[[Path, Path, str], Path], tmp_path: Path
) -> None:
    paint_classes(tmp_path / "folder", LABELS)
    tree = open_tree("sketch", pack(tmp_path / "folder", tmp_path / "packed" / "x", "sketch"))
    other: Tree = pickle.loads(pickle.dumps(tree))
    assert other.folders() == ["sketch"]
    for label in LABELS:
        path = f"sketch/{wnids()[label]}/image_0.png"
        assert other.open(path).read() == tree.open(path).read() == painted(label)
        with pytest.raises(FileNotFoundError):
            other.open(f"sketch/{wnids()[label]}/image_1.png")
    assert other.images("sketch") == []


def test_loading_processes_read_one_zip(tmp_path: Path) -> None:
    paint_classes(tmp_path / "folder", LABELS, per_class=6)
    file = zipped(tmp_path / "folder", tmp_path / "packed" / "sketch.zip", "sketch")
    (row,) = rows_of(tmp_path, sketch=file, batch_size=3, workers=2)
    assert row["details"]["correct1"] == 48


def test_a_tar_is_decompressed_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paint_classes(tmp_path / "folder", LABELS)
    file = gzipped(tmp_path / "folder", tmp_path / "packed" / "sketch.tar.gz", "sketch")
    open_tree("sketch", file)
    (kept,) = cache.glob("sketch-*.tar")
    assert kept.read_bytes() == gzip.decompress(file.read_bytes())
    said = capsys.readouterr().err
    assert said.startswith(f"decompressing {file} (")
    assert f"to {kept}, once" in said
    with monkeypatch.context() as patched:
        patched.setattr(decompressed.gzip, "open", lambda _: pytest.fail("once more"))
        open_tree("sketch", file)
    assert capsys.readouterr().err == ""
    gzipped(tmp_path / "folder", file, "other")
    assert open_tree("sketch", file).folders() == ["other"]


def test_of_several_forms_the_plain_tar_is_taken(tmp_path: Path, cache: Path) -> None:
    paint_classes(tmp_path / "folder", LABELS, names=NUMBERS)
    file = tmp_path / "v2" / "imagenetv2-top-images.tar.gz"
    gzipped(tmp_path / "folder", file, "top-images")
    shutil.copyfile(file, tmp_path / "x.gz")
    file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
    file.write_bytes(b"not looked at")
    (row,) = rows_of(tmp_path, v2=tmp_path / "v2", v2_variants=("top-images",))
    assert row["images"] == len(LABELS)
    assert not list(cache.glob("*.tar"))


# -- gzip'ed archives from anywhere ---------------------------------------------------------------


@hostile
def test_a_hostile_archive_is_refused_before_it_is_kept(
    content: bytes, fault: str, tmp_path: Path, cache: Path
) -> None:
    file = tmp_path / "a.tar.gz"
    file.write_bytes(gzip.compress(content, 1))
    assert str(file) in refusal(file)
    assert not list(cache.iterdir())


def damaged(kind: str) -> tuple[bytes, str]:
    whole = gzip.compress(archive_of({"n/a.png": painted(0) * 50}), 1)
    return {
        "cut": (whole[:-20], "ended before the end-of-stream"),
        "checksum": (whole[:-8] + bytes(4) + whole[-4:], "CRC check failed"),
        "bytes": (whole[:30] + bytes(20) + whole[50:], "cannot be decompressed"),
        "no tar": (gzip.compress(b"text" * 500), "is no tar archive"),
        "nothing": (gzip.compress(b""), "is empty"),
    }[kind]


@pytest.mark.parametrize("kind", ["cut", "checksum", "bytes", "no tar", "nothing"])
def test_damage_leaves_nothing(kind: str, tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "a.tar.gz"
    content, fault = damaged(kind)
    file.write_bytes(content)
    assert fault in refusal(file)
    assert not list(cache.iterdir())


@pytest.mark.parametrize("name", ["a.png", "notes.txt"])
def test_a_bomb_ends_at_a_multiple_of_its_size(
    name: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decompressed, "_LEAST", 1 << 20)
    file = tmp_path / "a.tar.gz"
    file.write_bytes(gzip.compress(bytes(header(name, size=8 << 20)) + bytes(8 << 20) + END))
    assert "has more than 20 times its size in it" in refusal(file)
    assert not list(cache.iterdir())


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    file = tmp_path / "a.tar.gz"
    file.write_bytes(gzip.compress(archive_of({"n/a.png": painted(0)})))
    text = refusal(file)
    assert "cannot be decompressed to" in text
    assert "name another cache by XDG_CACHE_HOME, or unpack it" in text


# -- zips from anywhere ---------------------------------------------------------------------------


def zip_of(name: str, **changes: Any) -> bytes:
    """A zip of one image, with some of its entry's values as given."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo(name)
        for key, value in changes.items():
            setattr(info, key, value)
        archive.writestr(info, painted(0))
    return file.getvalue()


def patched(content: bytes, at: int, form: str, value: int) -> bytes:
    """A zip whose central directory has another value at some place of its first entry."""
    start = content.index(b"PK\x01\x02") + at
    value_bytes = struct.pack(form, value)
    return content[:start] + value_bytes + content[start + len(value_bytes) :]


WHOLE = zip_of("n/a.png")
LINK = (stat.S_IFLNK | 0o777) << 16
HOSTILE_ZIPS: dict[str, tuple[bytes, str]] = {
    "upwards": (zip_of("n/../../a.png"), "has a name that leads out of it"),
    "absolute": (zip_of("/etc/a.png"), "has a name that leads out of it"),
    "a link": (zip_of("n/a.png", external_attr=LINK), "n/a.png is a link or a device"),
    "encrypted": (patched(WHOLE, 8, "<H", 1), "n/a.png is encrypted"),
    "another method": (patched(WHOLE, 10, "<H", 9), "n/a.png is packed by method 9"),
    "cut": (WHOLE[:-30], "is no whole zip"),
    "no zip": (b"PK\x03\x04 and no more", "is no whole zip"),
    "nothing": (b"", "is no whole zip"),
}


@pytest.mark.parametrize(("content", "fault"), HOSTILE_ZIPS.values(), ids=HOSTILE_ZIPS)
def test_a_hostile_zip_is_refused(content: bytes, fault: str, tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    file.write_bytes(content)
    assert fault in refusal(file)


@pytest.mark.parametrize(
    ("content", "fault"),
    [(patched(WHOLE, 16, "<I", 1), "Bad CRC-32"), (patched(WHOLE, 24, "<I", 2**30), "has 1,024 M"),
     (WHOLE.replace(b"IHDR", b"XXXX"), "Bad CRC-32")],
    ids=["checksum", "bomb", "bytes"],
)  # fmt: skip
def test_a_member_that_cannot_be_read_is_named(content: bytes, fault: str, tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    file.write_bytes(content)
    tree = open_tree("a", file)
    with pytest.raises(Exception, match=f"a.zip: n/a.png: {fault}"):
        tree.open("n/a.png")


def test_no_more_is_unpacked_than_a_member_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member of 16 MiB that says it has 1000 bytes."""
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("n/a.png", bytes(16 << 20))
    file.write_bytes(patched(file.read_bytes(), 24, "<I", 1000))
    tree = open_tree("a", file)
    tracemalloc.start()
    with pytest.raises(Exception, match="Bad CRC-32"):
        tree.open("n/a.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    monkeypatch.setattr(zip_archive, "LARGEST_IMAGE", 999)
    with pytest.raises(Exception, match="has 0 MiB"):
        tree.open("n/a.png")


def test_of_members_of_one_name_the_last_counts(tmp_path: Path) -> None:
    file = tmp_path / "sketch.zip"
    name = f"{wnids()[0]}/a.png"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, painted(5))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(name, painted(0))
        archive.writestr(f"__MACOSX/{name}", b"")
        archive.writestr("readme.txt", b"")
    tree = open_tree("sketch", file)
    assert tree.folders() == [wnids()[0]]
    assert tree.images(wnids()[0]) == ["a.png"]
    assert tree.open(name).read() == painted(0)
