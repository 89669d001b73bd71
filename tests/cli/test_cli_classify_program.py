"""The classifier in Python, and ``transnext classify`` as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from transnext_models.classifier import Classifier
from transnext_models.images import ImageError

MAIN = "from transnext_models.cli import main; main()"


# -- the classifier itself ------------------------------------------------------------------------


def test_few_images_are_in_memory(weights, folder, monkeypatch):
    """Decoding stays at most one batch ahead of the model."""
    loaded = Classifier.load(weights=weights)
    data = (folder / "image_00.png").read_bytes()
    taken = 0

    def images() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield data

    results = loaded.classify(images(), batch_size=4)
    for _ in range(9):
        next(results)
    time.sleep(0.2)
    assert taken == 16
    results.close()


def test_result_objects(weights, folder):
    loaded = Classifier.load(weights=weights)
    good, bad = loaded.classify([folder / "image_00.png", folder / "image_04_broken.png"], top_k=2)
    assert good.path == folder / "image_00.png"
    assert len(good.predictions) == 2
    assert good.seconds > 0
    assert isinstance(bad, ImageError)
    assert list(loaded.classify([])) == []
    with pytest.raises(ValueError, match="batch_size"):
        next(loaded.classify(["x"], batch_size=0))
    with pytest.raises(ValueError, match="top_k"):
        next(loaded.classify(["x"], top_k=0))


# -- as a program of its own ----------------------------------------------------------------------


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )


def test_imports_only_what_it_needs(weights, folder):
    check = (
        "import sys, atexit\n"
        "slow = ('timm', 'lightning', 'torchvision', 'cupy', 'matplotlib', 'sklearn')\n"
        "atexit.register(lambda: print(*(n for n in slow if n in sys.modules), file=sys.stderr))\n"
    )
    command = [sys.executable, "-c", check + MAIN, "classify", folder / "image_00.png"]
    done = subprocess.run(
        [*map(str, command), "--weights", str(weights), "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0
    assert done.stderr.strip() == ""
    assert len(json.loads(done.stdout)["images"]) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are no text")
def test_any_name_on_an_ascii_output(weights, folder, tmp_path):
    """Names of bytes that are no text, labels and bars: all can be printed."""
    name = os.fsencode(tmp_path / "na\u00efve-") + b"\xff.png"
    Path(os.fsdecode(name)).write_bytes((folder / "image_00.png").read_bytes())
    command = [sys.executable, "-c", MAIN, "classify", name, "--weights", str(weights)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode("ascii").splitlines()
    assert r"na\xefve-\udcff.png" in lines[0]
    assert re.fullmatch(r"  \d  +[\d.]+ %  #+", lines[1])


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")
def test_interrupt_is_quiet(weights, folder):
    process = start("classify", folder, "--weights", weights, "--batch-size", 1)
    assert process.stdout is not None
    process.stdout.readline()  # it is at work now
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    # On a fast machine it may have been done already.
    assert (process.returncode, "interrupted" in err) in ((130, True), (1, False))


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")
def test_a_reader_that_leaves_is_no_error(weights, folder):
    process = start("classify", folder, "--weights", weights, "--batch-size", 1)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait(timeout=60) in (141, 1)
    assert "Traceback" not in err
    assert "BrokenPipe" not in err
