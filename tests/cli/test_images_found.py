"""Which files a name stands for: links, hidden names, folders that may not be read, odd names."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import tempfile
import time
from pathlib import Path

import pytest
from PIL import Image, features

from transnext_models.images import (
    FoundImages,
    find_images,
    is_hidden,
    read_image,
)

posix = pytest.mark.skipif(os.name != "posix", reason="links, pipes and permissions of POSIX")


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(found: FoundImages, root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in found.paths]


def left_out(found: FoundImages) -> dict[str, int]:
    return {group.reason: group.count for group in found.left_out}


def reasons(found: FoundImages) -> list[str]:
    return [problem.reason for problem in found.problems]


# -- links ----------------------------------------------------------------------------------------


@pytest.fixture
def linked(tmp_path):
    """A set with a link to a folder outside, to itself, and to a folder and a file inside."""
    put(tmp_path / "photos" / "a.png", tmp_path / "photos" / "deep" / "b.png")
    put(tmp_path / "set" / "own.png", tmp_path / "set" / "z" / "c.png")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "photos")
    (tmp_path / "set" / "loop").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "again").symlink_to(tmp_path / "set" / "z")
    (tmp_path / "set" / "0.png").symlink_to(tmp_path / "set" / "own.png")
    (tmp_path / "photos" / "back").symlink_to(tmp_path / "set")
    return tmp_path


@posix
def test_linked_folders_are_searched_once(linked):
    found = find_images(linked / "set")
    assert names(found, linked / "set") == [
        *("linked/a.png", "linked/deep/b.png", "own.png", "z/c.png")
    ]
    assert found.problems == []
    assert left_out(found) == {
        "linked to folders that are searched": 3,
        "linked to files that are listed": 1,
    }


@posix
def test_folders_that_links_share(linked):
    """Given together, in either order, and under two names: every image once."""
    for given in (["set", "photos"], ["photos", "set"], ["set", "set/../set", "photos/back"]):
        found = find_images([linked / name for name in given])
        assert sorted(path.name for path in found.paths) == ["a.png", "b.png", "c.png", "own.png"]
        assert found.problems == []


@posix
def test_many_loops_end(tmp_path):
    """Patterns too; Python's own glob would list 2 to the power of 40 names."""
    put(tmp_path / "a.png")
    for index in range(4):
        (tmp_path / f"loop{index}").symlink_to(tmp_path)
    started = time.monotonic()
    assert names(find_images(tmp_path), tmp_path) == ["a.png"]
    assert names(find_images(tmp_path / "**" / "*.png"), tmp_path) == ["a.png"]
    assert names(find_images(tmp_path / "**"), tmp_path) == ["a.png"]
    assert time.monotonic() - started < 10


@posix
def test_linked_files_of_a_store_are_all_found(tmp_path):
    """Names that link to different files elsewhere, as data sets are kept by some programs."""
    for index in range(3):
        put(tmp_path / "store" / f"blob{index}")
        link = tmp_path / "set" / f"{index}.png"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(tmp_path / "store" / f"blob{index}")
    (tmp_path / "set" / "same.png").symlink_to(tmp_path / "store" / "blob0")
    assert names(find_images(tmp_path / "set"), tmp_path / "set") == ["0.png", "1.png", "2.png"]


@posix
def test_links_that_lead_nowhere(tmp_path):
    put(tmp_path / "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "missing")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "gone").symlink_to(tmp_path / "missing")
    found = find_images(tmp_path)
    assert names(found, tmp_path) == ["a.png"]
    assert sorted(Path(problem.path).name for problem in found.problems) == ["gone.png", "self.png"]
    assert set(reasons(found)) == {"a link that leads nowhere"}
    assert left_out(found) == {"broken as links": 1}
    assert reasons(find_images(tmp_path / "gone.png")) == ["a link that leads nowhere"]


@posix
def test_files_that_are_named_are_taken_whatever_links_to_them(tmp_path):
    put(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("a.png")
    given = [tmp_path / "b.png", tmp_path / "a.png", tmp_path / "b.png"]
    assert find_images(given).paths == given[:2]


# -- what is left out -----------------------------------------------------------------------------


def test_left_out_is_counted_by_reason(tmp_path):
    put(*(tmp_path / name for name in ("a.png", "b.TXT", "c.txt", "README", "d.svg")))
    put(tmp_path / ".DS_Store", tmp_path / "._a.png", tmp_path / "Thumbs.db")
    put(tmp_path / ".git" / "x.png", tmp_path / "__MACOSX" / "a.png")
    put(tmp_path / "@eaDir" / "a.png" / "thumb.jpg", tmp_path / "sub" / ".thumbnails" / "t.png")
    found = find_images(tmp_path)
    assert names(found, tmp_path) == ["a.png"]
    assert left_out(found) == {
        "of suffix .txt": 2,
        "without a suffix": 1,
        "of suffix .svg": 1,
        "hidden": 7,
    }
    hidden = next(group for group in found.left_out if group.reason == "hidden")
    assert tmp_path / "@eaDir" in hidden.paths
    assert found.problems == []


@posix
def test_pipes_and_sockets_in_a_folder_are_left_alone(tmp_path, monkeypatch):
    """A pipe without a writer does not hold up a search; one that is named is taken."""
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.chdir(tmp_path)  # a socket's name must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        put(tmp_path / "a.png")
        found = find_images(".")
    assert names(found, Path()) == ["a.png"]
    assert left_out(found) == {"no regular files": 2}
    assert find_images("pipe.png").paths == [Path("pipe.png")]


@pytest.mark.parametrize(
    "name",
    [".git", ".ipynb_checkpoints", "._x.jpg", "__MACOSX", "@eaDir", "Thumbs.db", "$RECYCLE.BIN"],
)
def test_hidden_names(name):
    assert is_hidden(name)
    assert not is_hidden(f"a{name}")


def test_hidden_folders_that_are_named_are_searched(tmp_path):
    put(tmp_path / ".cache" / "a.png", tmp_path / ".cache" / ".b.png")
    assert names(find_images(tmp_path / ".cache"), tmp_path) == [".cache/a.png"]
    assert names(find_images(tmp_path / ".c*"), tmp_path) == [".cache/a.png"]
    assert names(find_images(tmp_path / ".cache" / ".b.png"), tmp_path) == [".cache/.b.png"]
    assert names(find_images(tmp_path / "*" / ".cache" / "*"), tmp_path) == []


# -- folders that may not be read -----------------------------------------------------------------


@pytest.fixture
def open_path():
    """A temporary folder that other users may go to; pytest's own is closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@posix
def test_folders_that_may_not_be_read_are_named(open_path):
    """Given, below the given one, and in a pattern; by a user who is not root."""
    tmp_path = open_path
    put(tmp_path / "all" / "a.png", tmp_path / "all" / "locked" / "b.png")
    put(tmp_path / "shut" / "in" / "c.png")
    (tmp_path / "all" / "locked").chmod(0)
    (tmp_path / "shut").chmod(0)
    given = ["all/locked", "all", "all/locked/*.png", "all/**/*.png", "shut/in/c.png", "shut/in"]
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # nothing of the tests may run on in here
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            seen = [find_images(tmp_path / name) for name in given]
            texts = [([str(p) for p in s.paths], list(map(str, s.problems))) for s in seen]
            os.write(writing, json.dumps(texts).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        results = json.load(pipe)
    (tmp_path / "all" / "locked").chmod(0o755)
    (tmp_path / "shut").chmod(0o755)
    locked = f"{tmp_path}/all/locked: a folder that cannot be searched: may not be read"
    for (paths, problems), expected in zip(results, [0, 1, 0, 1, 0, 0], strict=True):
        assert len(paths) == expected
        assert len(problems) == 1
        assert "permission denied" in problems[0]
    assert all(problems[0].startswith(locked) for _, problems in results[:4])


# -- names ----------------------------------------------------------------------------------------


def test_one_name_is_one_name(tmp_path, monkeypatch):
    put(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    assert find_images("photo.png").paths == [Path("photo.png")]
    assert find_images(Path("photo.png")).paths == [Path("photo.png")]
    assert find_images(iter(["photo.png"])).paths == [Path("photo.png")]


@posix
@pytest.mark.parametrize("name", ["a[1].png", "*.png", "?", "a\nb.png", "~", "~x.png", "- .png"])
def test_names_that_exist_are_no_patterns(tmp_path, monkeypatch, name):
    put(tmp_path / name, tmp_path / "a1.png")
    monkeypatch.chdir(tmp_path)
    assert find_images(name).paths == [Path(name)]


def test_brackets_in_the_name_of_a_folder(tmp_path):
    put(tmp_path / "set [1]" / "a.png", tmp_path / "set 1" / "b.png")
    assert names(find_images(tmp_path / "set [1]"), tmp_path) == ["set [1]/a.png"]
    found = find_images(tmp_path / "set [1]" / "*.png")
    assert names(found, tmp_path) == ["set 1/b.png", "set [1]/a.png"]


def test_a_dash_is_standard_input_and_may_be_a_file(tmp_path, monkeypatch):
    put(tmp_path / "-")
    monkeypatch.chdir(tmp_path)
    assert find_images(["-", "-"]).paths == [Path("-")]
    (path,) = find_images("./-").paths
    assert path == tmp_path / "-"


@pytest.mark.parametrize("name", ["x" * 5_000, "a\0b", "photo.png/x", "~nobody-of-this-name/x.png"])
def test_names_that_cannot_be(tmp_path, monkeypatch, name):
    """Each is one problem, and no end of the search."""
    put(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    found = find_images([name, "photo.png"])
    assert found.paths == [Path("photo.png")]
    assert len(found.problems) == 1


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".jif", ".mpo", ".JPG", ".apng"])
def test_all_names_of_image_files(tmp_path, suffix):
    file = tmp_path / f"x{suffix}"
    Image.new("RGB", (8, 8)).save(file, "PNG" if "png" in suffix else "JPEG")
    assert find_images(tmp_path).paths == [file]


@pytest.mark.parametrize(
    ("module", "suffix"), [("pillow_heif", ".heic"), ("PIL.AvifImagePlugin", ".avif")]
)
def test_formats_that_are_not_everywhere(tmp_path, module, suffix):
    """They are seen, and decoded, where there is a decoder."""
    put(tmp_path / f"x{suffix}")
    is_known = importlib.util.find_spec(module) is not None
    if not (is_known and (module != "PIL.AvifImagePlugin" or features.check("avif"))):
        assert left_out(find_images(tmp_path)) == {f"of suffix {suffix}": 1}
        return
    Image.new("RGB", (64, 48), (250, 250, 250)).save(tmp_path / f"x{suffix}")
    assert find_images(tmp_path).paths == [tmp_path / f"x{suffix}"]
    assert read_image(tmp_path / f"x{suffix}").size == (64, 48)


def test_patterns_go_through_the_same_search(tmp_path):
    put(tmp_path / "a" / "1.png", tmp_path / "b" / "deep" / "2.jpg", tmp_path / "b" / "notes.txt")
    put(tmp_path / "__MACOSX" / "3.png", tmp_path / "b" / "._2.jpg", tmp_path / "b" / "Thumbs.db")

    def matching(*parts: str) -> list[str]:
        return names(find_images(tmp_path.joinpath(*parts)), tmp_path)

    assert matching("*", "*.png") == ["a/1.png"]
    assert matching("**", "*.jpg") == ["b/deep/2.jpg"]
    assert matching("**", "deep", "*") == ["b/deep/2.jpg"]
    assert matching("[ab]") == ["a/1.png", "b/deep/2.jpg"]
    assert matching("__MACOSX", "*.png") == ["__MACOSX/3.png"]
    assert matching("b", "*.txt") == ["b/notes.txt"]
    assert matching("?", "**") == ["a/1.png", "b/deep/2.jpg"]
    assert reasons(find_images(tmp_path / "c" / "*.png")) == ["no image matches this pattern"]


def test_folders_of_many_files(tmp_path):
    for index in range(20_000):
        (tmp_path / f"{index:05d}.{'png' if index % 2 else 'txt'}").touch()
    started = time.monotonic()
    found = find_images(tmp_path)
    assert time.monotonic() - started < 20
    assert len(found.paths) == 10_000
    assert left_out(found) == {"of suffix .txt": 10_000}
    assert found.paths == sorted(found.paths)
