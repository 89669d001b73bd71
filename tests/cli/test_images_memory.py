"""Small files cannot take much memory, one at a time or many at once; large honest ones fit."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
import warnings

import numpy as np
import pytest
from PIL import Image

import hostile_images as hostile
from cli.image_claims import PREPROCESS, reason
from limits import measured, measures_memory
from transnext_models.images import (
    DECODING_BYTES,
    DecodedBatches,
    ImageError,
    MemoryBudget,
    memory,
    read,
    read_image,
    streams,
)
from transnext_models.images.quiet import quiet

BOUND = 512  # MiB; what is stated is 448, of pixels and what goes with them


READ = "from transnext_models.images import ImageError, read_image"


READ_EACH = """
for path in sys.argv[1:]:
    try:
        print(read_image(path).size)
    except ImageError as error:
        print(error.reason)
"""


CLASSIFY = """
import os
os.cpu_count = lambda: 4
from transnext_models.classifier import Classifier
from transnext_models.images import ImageError
classifier = Classifier.load()
"""


CLASSIFY_ALL = """
for result in classifier.classify(sys.argv[1:]):
    print(result.reason if isinstance(result, ImageError) else "classified")
"""


# -- measured -------------------------------------------------------------------------------------


@measures_memory
def test_a_small_png_is_read_or_refused_in_little_memory(tmp_path):
    transparent = {"colour": 3, "chunks": hostile.png_chunk(b"tRNS", b"\0")}
    for name, side, options in (
        ("palette", 13_000, transparent),  # 1 byte, as RGB 4
        ("grey", 13_000, {"colour": 0}),
        ("rgba", 9_000, {"colour": 6}),
        ("grey-alpha", 9_000, {"colour": 4}),
        ("grey-16", 9_000, {"colour": 0, "depth": 16}),
        ("rgb-16", 9_000, {"colour": 2, "depth": 16}),
    ):
        (tmp_path / name).write_bytes(hostile.png(side, side, **options))
        assert (tmp_path / name).stat().st_size < 700_000
    done = measured(READ, READ_EACH, *sorted(tmp_path.iterdir()))
    assert len(done.out.splitlines()) == 6
    assert done.mib < BOUND


@measures_memory
def test_many_small_files_share_the_bound(tmp_path):
    """Four threads, four modes: together as little as one of them."""
    for index, colour in enumerate((2, 6, 4, 3)):
        path = tmp_path / f"{index}.png"
        path.write_bytes(hostile.png(9_000, 9_000, colour=colour))
    done = measured(CLASSIFY, CLASSIFY_ALL, *sorted(tmp_path.iterdir()), seconds=300)
    assert done.out.split() == ["classified"] * 4
    assert done.mib < BOUND


@measures_memory
def test_a_large_palette_image_is_classified(tmp_path):
    """169 million pixels of one byte, never all of them in colour."""
    path = tmp_path / "x.png"
    path.write_bytes(
        hostile.png(13_000, 13_000, colour=3, chunks=hostile.png_chunk(b"tRNS", b"\0"))
    )
    done = measured(CLASSIFY, CLASSIFY_ALL, path, seconds=300)
    assert done.out == "classified"
    assert done.mib < 256


@measures_memory
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_photo_of_a_large_sensor_is_classified(tmp_path, orientation):
    """108 million pixels, lying on their side or not: 412 MiB decoded, without a copy."""
    exif = Image.Exif()
    exif[hostile.ORIENTATION] = orientation
    Image.new("RGB", (12_000, 9_000), (200, 90, 20)).save(tmp_path / "x.jpg", exif=exif)
    done = measured(CLASSIFY, CLASSIFY_ALL, tmp_path / "x.jpg", seconds=300)
    assert done.out == "classified"
    assert done.mib < BOUND


@measures_memory
def test_damaged_images_are_forgotten(tmp_path):
    """What was decoded of a file that is cut short does not stay with its error."""
    data = hostile.png(4_000, 4_000)
    for index in range(20):
        (tmp_path / f"{index}.png").write_bytes(data[:-200])
    work = "errors = list(classifier.classify(sys.argv[1:]))\nprint(len(errors))"
    done = measured(CLASSIFY, work, *tmp_path.iterdir(), seconds=300)
    assert done.out == "20"
    assert done.mib < BOUND


@measures_memory
def test_claims_cost_nothing(tmp_path):
    """Whatever other code allowed Pillow."""
    bomb = hostile.exif(5_000, 1_000_000)
    for name, data in {
        "tile": hostile.tiff(64, 64, compression=8, tile=(40_000, 40_000)),
        "directory": hostile.tiff(64, 64, entries=5_000, data=bytes(1_000_000)),
        "strips": hostile.tiff(64, 64, offsets=[8] * 400_000),
        "exif": hostile.jpeg_with_exif(bomb),
        "png-exif": hostile.png(64, 64, chunks=hostile.png_chunk(b"eXIf", bomb)),
        "texts": hostile.png(64, 64, chunks=hostile.png_texts(60)),
        "international": hostile.png(64, 64, chunks=hostile.png_texts(60, b"iTXt")),
        "frame": hostile.gif(65_535, 65_535, extensions=b"\x21\xf9\x04\x09\0\0\0\0"),
        "animation": hostile.png_animation(20_000, 20_000, 1),
    }.items():
        (tmp_path / name).write_bytes(data)
    setup = f"{READ}\nfrom PIL import Image\nImage.MAX_IMAGE_PIXELS = None"
    done = measured(setup, READ_EACH, *sorted(tmp_path.iterdir()))
    assert done.out.count("\n") == 8
    assert done.mib < 64


# -- limits ---------------------------------------------------------------------------------------


def test_limit_of_pixels_is_our_own(monkeypatch):
    data = hostile.png(14_000, 13_000, colour=3)
    assert reason(data) == "more than 178 million pixels"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert reason(data) == "more than 178 million pixels"


def test_limit_of_pillow_is_named(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    file = io.BytesIO()
    Image.new("RGB", (2_000, 1_001)).save(file, "BMP")
    assert reason(file.getvalue()) == "more than 2 million pixels"


def test_limit_of_a_side():
    assert reason(hostile.png(1_000_001, 1, colour=0)) == "more than 1,000,000 pixels on a side"
    assert read_image(hostile.png(100_000, 2, colour=0)).size == (100_000, 2)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"])
def test_images_that_the_caller_opened_must_keep_it_too(format_):
    """And are decoded from where they stand."""
    file = io.BytesIO()
    Image.effect_noise((640, 480), 90).convert("RGB").save(file, format_)
    expected = np.asarray(read_image(file.getvalue()))
    with Image.open(file) as image:
        assert np.array_equal(read_image(image), expected)
        assert np.array_equal(read_image(image), expected)
    with Image.open(file) as image, pytest.raises(ImageError, match="the image memory of 1 MiB"):
        read_image(image, memory_bytes=1 << 20)
    tiles = io.BytesIO(hostile.tiff(64, 64, compression=8, tile=(40_000, 40_000)))
    with Image.open(tiles) as image, pytest.raises(ImageError, match="would take 1,5"):
        read_image(image)


def test_limit_of_memory_is_said_and_can_be_raised():
    data = hostile.png(2_000, 2_000)
    with pytest.raises(ImageError, match=r"would take \d+ MiB .* the image memory of 8 MiB"):
        read_image(data, memory_bytes=8 << 20)
    assert read_image(data, memory_bytes=64 << 20).size == (2_000, 2_000)


def test_memory_is_given_back():
    """After images that were read, refused, and damaged."""
    good = hostile.png(40, 40)
    for data in (good, good[:60], b"no image", hostile.png(1_000_001, 1, colour=0)):
        with pytest.raises(ImageError) if data is not good else warnings.catch_warnings():
            read_image(data)
    with memory.DECODING.reserve(DECODING_BYTES):
        pass


def test_who_does_not_fit_waits():
    budget = MemoryBudget(10)
    order = []

    def second() -> None:
        with budget.reserve(6):
            order.append("second")

    with budget.reserve(5):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.05)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]
    with pytest.raises(ValueError, match="more than the image memory"), budget.reserve(11):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forked processes")
def test_a_forked_process_has_a_budget_of_its_own():
    """Whatever threads of its parent held as it was forked: memory, locks, silence."""
    data = hostile.png(40, 40)
    filters = list(warnings.filters)
    with memory.DECODING.reserve(DECODING_BYTES - 1), read._loading, streams._reading, quiet():
        child = os.fork()
        if child == 0:  # nothing of the tests may run on in here
            try:
                signal.alarm(20)
                with Image.open(io.BytesIO(data)) as image:
                    images = [read_image(source) for source in (data, io.BytesIO(data), image)]
                same = list(warnings.filters) == filters
                os._exit(0 if len(images) == 3 and same else 1)
            finally:
                os._exit(2)
        _, status = os.waitpid(child, 0)
    assert status == 0


def test_threads_do_not_hold_more_than_the_budget(tmp_path):
    """What every thread holds at a time, added up."""
    budget = MemoryBudget(40 << 20)
    held, most = [0], [0]
    lock = threading.Lock()
    reserve = budget.reserve

    class Counting(MemoryBudget):
        def reserve(self, needed):
            inner = reserve(needed)

            class Counted:
                def __enter__(self):
                    inner.__enter__()
                    with lock:
                        held[0] += needed
                        most[0] = max(most[0], held[0])

                def __exit__(self, *error):
                    with lock:
                        held[0] -= needed
                    return inner.__exit__(*error)

            return Counted()

    data = hostile.png(1_500, 1_000)
    batches = DecodedBatches(
        [data] * 12,
        PREPROCESS,
        PREPROCESS.working_bytes,
        batch_size=12,
        budget=Counting(40 << 20),
    )
    (batch,) = batches
    assert not any(isinstance(item, ImageError) for _, item in batch)
    assert 0 < most[0] <= 40 << 20


def test_warnings_of_others_are_left_alone():
    """Many threads that silence Pillow at once take nothing away from who hears warnings."""
    data = hostile.jpeg_with_exif(b"II*\0" + bytes(40))
    batches = DecodedBatches(
        [data] * 64, PREPROCESS, PREPROCESS.working_bytes, batch_size=16, budget=memory.DECODING
    )
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        for _ in batches:
            warnings.warn("heard", UserWarning, stacklevel=1)
        assert warnings.filters == before
    assert [str(warning.message) for warning in heard] == ["heard"] * 4
