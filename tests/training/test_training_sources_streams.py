"""Shards that can only be read in order: what of resuming and of epochs holds for them too."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from requirements import needs
from training import short_runs
from training.image_layouts import archive_of, noise, write_shards
from training.short_runs import SMALL, CrashAfter, StopAfter, assert_same_end, resumed
from training.test_training_run import transnext_train
from transnext_models.classification.preprocess import Preprocess
from transnext_models.training.data import ImageData
from transnext_models.training.recipes import get_recipe
from transnext_models.training.run import RunOptions, RunStopped, train
from transnext_models.training.sources.lanes import Lanes, epoch_shards
from transnext_models.training.sources.tar_members import ArchiveError

pytestmark = needs("braceexpand", "fsspec")

CLASSES = ["ant", "bee", "cat"]
PREPROCESS = Preprocess(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 shards of 3 images to train on, 5 shards of 3 to validate on."""
    folder = tmp_path_factory.mktemp("shards")
    content = noise(CLASSES, train=20, val=5, side=40)
    write_shards(content["train"], folder, "train", 20)
    write_shards(content["val"], folder, "val", 5)
    return folder


def commands(folder: Path, split: str) -> list[str]:
    return [f"pipe:cat {path}" for path in sorted(folder.glob(f"{split}-*.tar"))]


def pattern(folder: Path, split: str) -> str:
    return f"pipe:cat {folder}/{split}-{{000000..{len(commands(folder, split)) - 1:06d}}}.tar"


def image_data(folder: Path, batch_size: int = 4, workers: int = 0, **changes: Any) -> ImageData:
    recipe = get_recipe("imagenet_224")
    recipe = dataclasses.replace(
        recipe, augmentation=dataclasses.replace(recipe.augmentation, repeats=1)
    )
    options = {"lengths": (60, 15), "source_val": pattern(folder, "val"), **changes}
    source = options.pop("source", pattern(folder, "train"))
    return ImageData(source, recipe, PREPROCESS, batch_size, workers, 3, **options)


def names(batch: list[Any]) -> list[str]:
    return [sample.name for sample in batch]


# -- order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "ranks"), [(0, 1), (1, 2), (2, 3)])
def test_a_batch_is_the_same_from_any_start_for_any_number_of_processes(
    folder: Path, rank: int, ranks: int
) -> None:
    shards = commands(folder, "train")

    def lanes() -> Lanes:
        return Lanes(shards, 3, 4, rank, ranks)

    whole = lanes()
    expected = [names(whole.batch(2, batch)) for batch in range(12)]
    for start in (1, 5, 11):
        late = lanes()
        assert [names(late.batch(2, batch)) for batch in range(start, 12)] == expected[start:]
    for workers in (2, 3, 5):
        several = [lanes() for _ in range(workers)]
        for batch in range(12):
            assert names(several[batch % workers].batch(2, batch)) == expected[batch]
        # They stay for the next epoch, and for one that begins in its middle.
        for batch in range(3, 6):
            again = several[batch % workers].batch(4, batch)
            assert names(again) == names(lanes().batch(4, batch))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_an_epoch_goes_through_the_shards_in_another_order(folder: Path, ranks: int) -> None:
    shards = commands(folder, "train")
    epochs = []
    for epoch in range(3):
        parts = [epoch_shards(shards, 3, epoch, rank, ranks) for rank in range(ranks)]
        assert sorted(itertools.chain.from_iterable(parts)) == shards
        epochs.append(parts)
    assert epochs[0] != epochs[1] != epochs[2]


def test_every_image_comes_before_any_comes_again(folder: Path) -> None:
    """Twenty shards of three images make four lanes of fifteen images."""
    lanes = Lanes(commands(folder, "train"), 3, 5)
    for epoch in range(2):
        first = Counter(name for batch in range(12) for name in names(lanes.batch(epoch, batch)))
        assert (len(first), set(first.values())) == (60, {1})
        # The second time around as well, in another order.
        again = Counter(
            name for batch in range(12, 24) for name in names(lanes.batch(epoch, batch))
        )
        assert again == first


def test_copies_follow_each_other(folder: Path) -> None:
    """Of repeated augmentation, with the same images as without."""
    shards = commands(folder, "train")
    plain = Lanes(shards, 3, 2)
    repeated = Lanes(shards, 3, 6, repeats=3)
    for batch in range(6):
        expected = [name for name in names(plain.batch(1, batch)) for _ in range(3)]
        assert names(repeated.batch(1, batch)) == expected


def test_images_are_mixed_across_the_shards_of_a_lane(folder: Path) -> None:
    shards = commands(folder, "train")
    lane = Lanes(shards, 3, 6)
    taken = names(lane.batch(0, 0))
    stored = [name.split(": ")[0] for name in taken]
    assert len(set(stored)) > 1
    assert stored != sorted(stored)


# -- runs -----------------------------------------------------------------------------------------


@pytest.fixture
def options(folder: Path, tmp_path: Path) -> RunOptions:
    return RunOptions(
        recipe=SMALL.name,
        data=pattern(folder, "train"),
        data_val=pattern(folder, "val"),
        epoch_length=24,
        val_length=15,
        output=tmp_path / "run",
        workers=0,
        devices="1",
    )


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    train(
        dataclasses.replace(
            short_runs.images(path, folder),
            data=pattern(folder, "train"),
            data_val=pattern(folder, "val"),
            epoch_length=24,
            val_length=15,
        )
    )
    return path


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 1), (1, 0)])
@pytest.mark.parametrize("how", [StopAfter, CrashAfter])
def test_a_resumed_run_is_exact_for_any_number_of_workers(
    options: RunOptions, whole: Path, how: Any, before: int, after: int
) -> None:
    cut = dataclasses.replace(options, workers=before, checkpoint_every_steps=3)
    with pytest.raises((RunStopped, short_runs.Crash)):
        train(cut, [how(8)])
    train(resumed(cut, workers=after))
    assert_same_end(whole, cut.output)


def test_shards_at_urls(folder: Path, options: RunOptions, whole: Path) -> None:
    """In fsspec's memory here; other URLs differ in the package that fsspec asks for."""
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in folder.glob("*.tar"):
        memory.pipe(f"/bucket/{path.name}", path.read_bytes())
    try:
        url = "memory://bucket/{}-{{000000..{:06d}}}.tar"
        train(
            dataclasses.replace(
                options,
                data=url.format("train", 19),
                data_val=url.format("val", 4),
                workers=2,
            )
        )
    finally:
        memory.rm("/bucket", recursive=True)
    assert_same_end(whole, options.output)


# -- validation -----------------------------------------------------------------------------------


def validated(folder: Path, rank: int, ranks: int, workers: int) -> list[list[bytes]]:
    data = image_data(folder, batch_size=2, workers=workers)
    data.shard(rank, ranks)
    batches = [data.validation_batch(batch) for batch in data.val_batches()]
    return [
        [f"{label} {image.sum()}".encode() for image, label in zip(*b, strict=True)]
        for b in batches
    ]


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
def test_every_validation_image_counts_once(folder: Path, ranks: int) -> None:
    """Also where there are more processes than shards; in the same batches for any workers."""
    seen: list[bytes] = []
    for rank in range(ranks):
        batches = validated(folder, rank, ranks, 0)
        seen += itertools.chain.from_iterable(batches)
        for workers in (1, 2, 3):
            assert validated(folder, rank, ranks, workers) == batches
    assert len(seen) == len(set(seen)) == 15
    assert Counter(one[:1] for one in seen) == {b"0": 5, b"1": 5, b"2": 5}


def test_lanes_of_different_lengths_are_in_order_for_any_number_of_workers(tmp_path: Path) -> None:
    content = noise(CLASSES, train=1, val=14, side=40)["val"]
    images = [image for files in content.values() for image in files.values()]
    for shard, count in enumerate((1, 11, 2, 9, 3, 7, 4, 5)):
        files = {}
        for number in range(count):
            image = images.pop()
            files |= {f"{shard}_{number}.jpg": image, f"{shard}_{number}.cls": b"0"}
        (tmp_path / f"val-{shard:06d}.tar").write_bytes(archive_of(files))
    write_shards({"ant": {}}, tmp_path, "train", 1)
    expected = validated(tmp_path, 0, 1, 0)
    assert sum(map(len, expected)) == 42
    for workers in (1, 2, 3):
        assert validated(tmp_path, 0, 1, workers) == expected


# -- unreadable images ----------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """One shard with six images, of which the second and the last cannot be read."""
    content = noise(CLASSES, train=2, val=2, side=40)
    images = [image for files in content["train"].values() for image in files.values()]
    for split in ("train", "val"):
        files = {}
        for number, image in enumerate(images):
            spoilt = image[: len(image) // 2] if number in (1, 5) else image
            files |= {f"{number}.jpg": spoilt, f"{number}.cls": str(number // 2).encode()}
        (tmp_path / f"{split}-000000.tar").write_bytes(archive_of(files))
    return tmp_path


def test_an_unreadable_image_is_stood_in_for(
    damaged: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = image_data(damaged, batch_size=6, lengths=(3000, 6))
    images, labels = data.training_batch(next(data.train_batches(0)))
    assert len(images) == 6
    counts = labels.bincount().tolist()
    assert sum(counts) == 6
    said = capfd.readouterr().err
    assert said.count("left out, since it cannot be read: pipe:cat") == 2
    for name in ("1.jpg", "5.jpg"):
        assert f"{damaged}/train-000000.tar: {name}\n" in said
    assert data.unreadable == {"training": 2, "validation": 0}


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_an_unreadable_validation_image_does_not_count(damaged: Path, batch_size: int) -> None:
    data = image_data(damaged, batch_size=batch_size, lengths=(6, 3000))
    batches = [data.validation_batch(batch) for batch in data.val_batches()]
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 1, 2]
    assert data.unreadable == {"training": 0, "validation": 2}


# -- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shard", "fault"),
    [
        ("pipe:cat nowhere.tar", r"pipe:cat nowhere.tar: failed with status 1; is empty"),
        ("pipe:cat {shard}; exit 3", "failed with status 3"),
        ("pipe:head -c 700 {shard}", "700 .*: is truncated"),
        ("pipe:head -c 700 {shard}; exit 4", "failed with status 4; is truncated"),
        ("pipe:true", "pipe:true: is empty"),
        ("memory://nowhere/a.tar", "memory://nowhere/a.tar: cannot be read .*FileNotFoundError"),
        ("nothing://a.tar", "nothing://a.tar: cannot be read .*Protocol not known"),
    ],
)
def test_a_shard_that_cannot_be_read(folder: Path, shard: str, fault: str) -> None:
    """It ends the run: an epoch without it would be another one."""
    lanes = Lanes([shard.replace("{shard}", f"{folder}/train-000000.tar")], 3, 2)
    with pytest.raises(ArchiveError, match=fault):
        lanes.batch(0, 3)


def test_a_scheme_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(RuntimeError, match=r"s3://bucket/a.tar: Install s3fs to access S3"):
        Lanes(["s3://bucket/a.tar"], 3, 2).batch(0, 0)


def test_shards_without_samples(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(archive_of({}))
    with pytest.raises(ArchiveError, match="and the other shards read with it are empty"):
        Lanes([f"pipe:cat {tmp_path}/a.tar"], 3, 2).batch(0, 0)


def test_more_processes_than_shards(folder: Path) -> None:
    data = image_data(folder)
    data.shard(0, 21)
    with pytest.raises(ValueError, match="--data: got 20 shards for 21 processes"):
        data.train_batches(0)


def test_a_label_beyond_the_classes(folder: Path) -> None:
    data = image_data(folder)
    data.check_labels(2)
    with pytest.raises(RuntimeError, match="--num-classes: got 2, needs more, since an image has"):
        list(map(data.training_batch, data.train_batches(0)))


# -- commands -------------------------------------------------------------------------------------


def ends(pid: Path) -> bool:
    """Whether the process whose number a file holds is gone, or is in a moment."""
    until = time.monotonic() + 10
    status = Path(f"/proc/{pid.read_text().strip()}/stat")
    while time.monotonic() < until:
        with contextlib.suppress(FileNotFoundError):
            if status.read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.01)
                continue
        return True
    return False


@pytest.mark.parametrize("how", ["close", "another epoch", "deleted"])
def test_a_command_that_is_left_early_ends_with_all_it_started(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("transnext_models.training.sources.lanes._BUFFERED", 1)
    pid = tmp_path / "pid"
    lanes = Lanes([f"pipe:sleep 300 & echo $! > {pid}; cat {folder}/train-000000.tar; wait"], 3, 1)
    lanes.batch(0, 0)
    if how == "close":
        lanes.close()
    elif how == "deleted":
        del lanes
    else:
        first = pid.read_text()
        lanes.batch(1, 0)
        pid.with_name("first").write_text(first)
        pid = pid.with_name("first")
    assert ends(pid)


def test_a_command_that_does_not_end_after_its_output(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transnext_models.training.sources.openers._PATIENCE", 0.2)
    command = f"pipe:sleep 300 & echo $! > {tmp_path}/pid; cat {folder}/train-000000.tar; wait"
    with pytest.raises(ArchiveError, match="has not ended after its output"):
        Lanes([command], 3, 2).batch(0, 0)
    assert ends(tmp_path / "pid")


def test_what_follows_an_archive_is_passed_over(folder: Path) -> None:
    """As the filling up to 10 KiB that tar writes, or more."""
    command = f"pipe:cat {folder}/train-000000.tar; head -c 1000000 /dev/zero"
    assert len(Lanes([command], 3, 3).batch(0, 0)) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_the_command_says_in_a_line_which_shard_cannot_be_read(
    folder: Path, tmp_path: Path, workers: int
) -> None:
    for broken in ("data", "data-val"):
        names = {"data": pattern(folder, "train"), "data-val": pattern(folder, "val")}
        names[broken] = "pipe:cat nowhere.tar"
        result = transnext_train(
            *("--recipe", SMALL.name, "--epoch-length", "24", "--val-length", "15"),
            *("--data", names["data"], "--data-val", names["data-val"], "--devices", "1"),
            *("--output", str(tmp_path / broken), "--workers", str(workers)),
        )
        assert result.exit_code == 1
        said = result.stderr.splitlines()[-1]
        assert said == "error: --data: pipe:cat nowhere.tar: failed with status 1; is empty"
