"""Images from wherever they come: pipes, bytes, objects, arrays, one or many, now or later."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from transnext_models.classifier import Classified, Classifier
from transnext_models.images import ImageError, memory, read_image, streams

posix = pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
MAIN = "from transnext_models.cli import main; main()"


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier.load()


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def data(picture) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def path(tmp_path, data) -> Path:
    (tmp_path / "photo.png").write_bytes(data)
    return tmp_path / "photo.png"


@pytest.fixture(scope="module")
def expected(classifier, data) -> list[tuple[int, float]]:
    return predicted(next(classifier.classify(data)))


def predicted(result: Classified | ImageError) -> list[tuple[int, float]]:
    assert isinstance(result, Classified), result
    return [(p.index, round(p.probability, 5)) for p in result.predictions]


# -- one image, or many ---------------------------------------------------------------------------


def test_one_image_of_any_kind(classifier, path, data, picture, expected):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("photo.png", data)
    with open(path, "rb") as file, zipfile.ZipFile(archive).open("photo.png") as member:
        for image, name in (
            (str(path), path),
            (path, path),
            (np.str_(path), path),
            (data, Path("<bytes 0>")),
            (bytearray(data), Path("<bytes 0>")),
            (memoryview(data), Path("<bytes 0>")),
            (io.BytesIO(data), Path("<stream 0>")),
            (file, path),
            (member, Path("photo.png")),
            (Image.open(path), path),
            (Image.open(io.BytesIO(data)), Path("<image 0>")),
            (Image.fromarray(picture), Path("<image 0>")),
            (picture, Path("<array 0>")),
            (picture / np.float64(255), Path("<array 0>")),
            (picture[::1, ::-1][:, ::-1], Path("<array 0>")),
            (torch.from_numpy(picture).permute(2, 0, 1), Path("<tensor 0>")),
        ):
            (result,) = classifier.classify(image)
            assert result.path == name
            assert isinstance(result.path, Path)
            assert predicted(result) == expected, name


def test_many_images_of_all_kinds(classifier, path, data, picture, expected):
    images = [path, data, picture, Image.fromarray(picture), b"no image", "missing.png", data]
    for given in (images, tuple(images), iter(images), (image for image in images)):
        results = list(classifier.classify(given, batch_size=2))
        assert [str(result.path) for result in results[1:]] == [
            *("<bytes 1>", "<array 2>", "<image 3>", "<bytes 4>", "missing.png", "<bytes 6>")
        ]
        for index in (0, 1, 2, 3, 6):
            assert predicted(results[index]) == expected
        assert isinstance(results[4], ImageError)
        assert results[5].reason == "no such file"


def test_a_batch_is_many_images(classifier, picture, expected):
    for batch in (
        np.stack([picture, picture]),
        torch.from_numpy(np.stack([picture, picture])).permute(0, 3, 1, 2),
        np.array(["missing.png", "gone.png"]),
    ):
        assert len(list(classifier.classify(batch))) == 2
    assert predicted(next(classifier.classify(np.stack([picture])))) == expected


def test_the_same_image_twice(classifier, path, expected):
    """Objects that keep a state are used by one thread at a time."""
    with open(path, "rb") as file, Image.open(path) as image:
        results = list(classifier.classify([file, image] * 8, batch_size=16))
    assert [predicted(result) for result in results] == [expected] * 16


@pytest.mark.parametrize("value", [None, 3, 2.5, object(), {"image": b"x"}])
def test_what_is_no_image_is_named(classifier, data, value):
    with pytest.raises(TypeError, match=r"^images: got \w+, needs a path, bytes"):
        classifier.classify(value)
    results = classifier.classify([data, value, data], batch_size=2)
    assert isinstance(next(results), Classified)
    with pytest.raises(TypeError, match=r"^images: got \w+, needs a path, bytes"):
        next(results)


def test_a_file_opened_as_text_is_named(classifier, path):
    with (
        open(path, encoding="latin-1") as file,
        pytest.raises(TypeError, match="images: got a file opened as text"),
    ):
        next(classifier.classify(file))


@pytest.mark.parametrize("argument", ["batch_size", "top_k"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, None])
def test_numbers_are_checked_before_anything_runs(classifier, argument, value):
    with pytest.raises(ValueError, match=f"^{argument}: "):
        classifier.classify("x.png", **{argument: value})


def test_an_iterator_that_fails_loses_no_result(classifier, data):
    def images() -> Any:
        yield from [data] * 5
        raise OSError("the camera was unplugged")

    results = classifier.classify(images(), batch_size=2)
    assert len([next(results) for _ in range(5)]) == 5
    with pytest.raises(OSError, match="unplugged"):
        next(results)


def test_image_memory_is_a_bound(classifier, picture, data):
    (result,) = classifier.classify(data, image_memory=1000)
    assert "more than the image memory of 1 MiB" in result.reason


def test_an_output_that_is_not_finite_is_no_result(classifier, data, monkeypatch):
    """Of damaged weights: an error of each image, not the class that sorts first."""
    broken = Classifier.load()
    with torch.no_grad():
        broken.model.head.bias[3] = float("nan")
    (result,) = broken.classify(data)
    assert isinstance(result, ImageError)
    assert "not finite" in result.reason


# -- arrays ---------------------------------------------------------------------------------------


def test_types_and_channels_of_arrays(picture):
    grey = picture[..., 0]
    opaque = np.concatenate([picture, np.full((40, 50, 1), 255, np.uint8)], -1)
    sixteen = picture.astype(np.uint16) * 257
    for array, rgb in (
        (grey, np.stack([grey] * 3, -1)),
        (grey[..., None], np.stack([grey] * 3, -1)),
        (opaque, picture),
        (sixteen, picture),
        (picture.astype(np.float32) / 255, picture),
        ((picture / 255).astype(np.float16), picture),
        (picture > 100, np.where(picture > 100, 255, 0)),
        (np.asfortranarray(picture), picture),
    ):
        assert np.array_equal(read_image(array), rgb)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    for given in (tensor, tensor.double() / 255, (tensor / 255).bfloat16()):
        assert np.abs(np.asarray(read_image(given)).astype(int) - picture).max() <= (
            1 if given.dtype == torch.bfloat16 else 0
        )
    assert read_image(tensor[0]).size == (50, 40)


def test_transparent_arrays_are_put_on_white():
    clear = np.zeros((4, 4, 4), np.uint8)
    assert (np.asarray(read_image(clear)) == 255).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 40, 50), np.uint8), r"needs \[H, W, C\]: transpose\(1, 2, 0\)"),
        (torch.zeros(40, 50, 3), r"needs \[C, H, W\]: permute\(2, 0, 1\)"),
        (np.zeros((40, 50, 2), np.uint8), "1, 3 or 4 channels"),
        (np.array(3), r"got an array \[\], needs \[H, W\]"),
        (np.zeros((0, 50, 3), np.uint8), "needs pixels"),
        (np.zeros((40, 50, 3), np.int64), "got an array of int64"),
        (np.zeros((40, 50, 3), complex), "got an array of complex128"),
        (np.full((40, 50, 3), 255.0), r"got floats of 255 to 255, needs 0\.\.1"),
        (np.full((40, 50, 3), np.nan), r"got floats of .* needs 0\.\.1"),
        (np.full((40, 50, 3), -0.1), r"got floats of .* needs 0\.\.1"),
    ],
)
def test_arrays_that_are_no_images(array, message):
    with pytest.raises(ImageError, match=message):
        read_image(array)


# -- pipes ----------------------------------------------------------------------------------------


@pytest.fixture
def pipe(data):
    """The name of a pipe through which an image comes, slowly."""
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb", buffering=0) as file:
            file.write(data[:100])
            time.sleep(0.2)
            file.write(data[100:])

    thread = threading.Thread(target=write)
    thread.start()
    yield f"/dev/fd/{reading}"
    thread.join()
    os.close(reading)


@posix
def test_an_open_pipe(classifier, pipe, expected):
    assert predicted(next(classifier.classify(pipe))) == expected


@posix
def test_a_named_pipe_waits_for_its_writer(tmp_path, data, picture):
    os.mkfifo(tmp_path / "pipe")

    def write() -> None:
        time.sleep(0.3)
        (tmp_path / "pipe").write_bytes(data)

    thread = threading.Thread(target=write)
    thread.start()
    assert np.array_equal(read_image(tmp_path / "pipe"), picture)
    thread.join()


@posix
def test_a_named_pipe_without_a_writer_ends(tmp_path, classifier, data, monkeypatch):
    monkeypatch.setattr(streams, "WRITER_SECONDS", 0.3)
    os.mkfifo(tmp_path / "pipe")
    results = list(classifier.classify([data, tmp_path / "pipe", data]))
    assert isinstance(results[2], Classified)
    assert "a pipe that nobody wrote to within 0 s" in results[1].reason


@posix
def test_waiting_is_given_up_with_the_run(tmp_path, classifier, data):
    """Closing the results ends threads that wait for pipes, open or not."""
    os.mkfifo(tmp_path / "pipe")
    reading, writing = os.pipe()
    results = classifier.classify([data, tmp_path / "pipe", f"/dev/fd/{reading}"], batch_size=1)
    next(results)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 5
    os.close(reading)
    os.close(writing)


@posix
@pytest.mark.parametrize(
    ("name", "reason"),
    [("/dev/null", "an empty file"), ("/dev/zero", "more than 1 MiB came through it")],
)
def test_devices(monkeypatch, name, reason):
    monkeypatch.setattr(streams, "MOST_STREAM_BYTES", 1 << 20)
    monkeypatch.setattr(streams, "_IN_MEMORY_BYTES", 1 << 18)
    with pytest.raises(ImageError, match=reason):
        read_image(name)


class Pipe:
    """An object that reads a few bytes at a time, and never again."""

    def __init__(self, data: bytes) -> None:
        self._source = io.BytesIO(data)

    def read(self, count: int = -1) -> bytes:
        return self._source.read(min(count, 700))


def test_long_streams_go_through_a_file(picture, monkeypatch):
    monkeypatch.setattr(streams, "_IN_MEMORY_BYTES", 1000)
    for format_ in ("PNG", "TIFF", "WEBP"):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format_, lossless=True, compression="tiff_lzw")

        assert np.array_equal(read_image(Pipe(file.getvalue())), picture)


def test_streams_are_read_from_their_start(data, picture):
    file = io.BytesIO(data)
    file.seek(50)
    assert np.array_equal(read_image(file), picture)


def test_standard_input_of_a_program_that_replaced_it(data, picture, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert np.array_equal(read_image("-"), picture)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ImageError, match="standard input is closed"):
        read_image("-")


def run(arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -c '{MAIN}' classify {arguments} --top-k 1"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=environment, **options
    )


@posix
def test_the_command_reads_standard_input_and_substitutions(path):
    done = run(f"- /dev/stdin <(cat {path}) {path} < {path}")
    titles = [line.rpartition("  ")[0] for line in done.stdout.splitlines() if " %" not in line]
    rows = {line.split()[0] for line in done.stdout.splitlines() if " %" in line}
    assert [title for title in titles if title] == ["-", "/dev/fd/63", str(path)]
    assert len(rows) == 1
    # The first has read it to its end.
    assert "skipped /dev/stdin: an empty file" in done.stderr
    assert done.returncode == 1


@posix
def test_the_command_without_a_standard_input():
    done = run("- <&-")
    assert done.returncode == 1
    assert "skipped -: standard input is closed" in done.stderr
    assert "Traceback" not in done.stderr


# -- files that change ----------------------------------------------------------------------------


def test_files_that_vanish(classifier, tmp_path, data):
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for file in paths:
        file.write_bytes(data)
    results = classifier.classify(paths, batch_size=1)
    next(results)
    paths[3].unlink()
    assert [type(result) for result in results] == [Classified, Classified, ImageError]


@posix
def test_files_that_may_not_be_read(tmp_path, data, monkeypatch):
    (tmp_path / "x.png").write_bytes(data)

    def refuse(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ImageError, match=r"may not be read \(permission denied\)"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, ""])
def test_names_that_cannot_be(name):
    with pytest.raises(ImageError):
        read_image(name)


def test_memory_of_all_is_given_back():
    with memory.DECODING.reserve(memory.DECODING_BYTES):
        pass
