"""The same images, labels and order from every layout, and from there the same weights."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from requirements import needs
from training import image_layouts, short_runs
from training.image_layouts import LAYOUTS, NEEDS, Contents, in_folders, noise
from training.short_runs import StopAfter, assert_equal, assert_same_end, resumed, untimed
from transnext_models.checkpoints import read_state_dict
from transnext_models.training.recipes import RECIPES
from transnext_models.training.run import RunStopped, train
from transnext_models.training.sources import ImageSet, UnreadableImage, open_splits

DIGITS = dataclasses.replace(short_runs.SMALL, name="small_digits", num_classes=10, epochs=2)
CLASSES = [f"n{number:08d}" for number in range(10)]

layouts = pytest.mark.parametrize(
    "layout",
    [pytest.param(name, marks=needs(*NEEDS.get(name, []))) for name in LAYOUTS],
)


def all_wordnet_names() -> list[str]:
    from timm.data import ImageNetInfo

    return list(ImageNetInfo("imagenet-1k").label_names())


def sets(source: str) -> list[ImageSet]:
    splits = open_splits(source)
    assert isinstance(splits.train, ImageSet)
    assert isinstance(splits.val, ImageSet)
    return [splits.train, splits.val]


def held(content: Contents) -> list[tuple[int, str, bytes]]:
    """What a set has to give, as (label, name, pixels)."""
    import io

    from PIL import Image

    return [
        (label, file, Image.open(io.BytesIO(content[name][file])).convert("RGB").tobytes())
        for label, name in enumerate(sorted(content))
        for file in sorted(content[name])
    ]


def given(images: ImageSet) -> Iterator[tuple[int, bytes]]:
    for index in range(len(images)):
        image, label, name = images[index]
        assert label == images.label(index)
        assert name == images.name(index)
        yield label, image.tobytes()


# -- all layouts ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imagenet() -> Mapping[str, Contents]:
    """All thousand names, one or two images of each."""
    return noise(all_wordnet_names(), train=2, val=1)


@layouts
def test_every_layout_gives_the_same_images_in_the_same_order(
    layout: str, imagenet: Mapping[str, Contents], tmp_path: Path
) -> None:
    train_set, val_set = sets(LAYOUTS[layout](imagenet, tmp_path / "data"))
    for found, split in ((train_set, "train"), (val_set, "val")):
        expected = held(imagenet[split])
        assert list(given(found)) == [(label, pixels) for label, _, pixels in expected]
        if layout != "shards":
            assert found.class_names == tuple(sorted(imagenet[split]))
        if layout != "hugging face":
            stems = [name.removesuffix(".JPEG") for _, name, _ in expected]
            assert all(stem in found.name(i) for i, stem in enumerate(stems))


@layouts
def test_a_set_goes_into_other_processes(layout: str, tmp_path: Path) -> None:
    """Forked after the parent has read from it, which opens files; or pickled."""
    content = noise(CLASSES, train=3, val=1)
    images = sets(LAYOUTS[layout](content, tmp_path / "data"))[0]
    expected = list(given(images))
    copy = pickle.loads(pickle.dumps(images))
    assert list(given(copy)) == expected
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_size=None,
        num_workers=2,
        multiprocessing_context=multiprocessing.get_context("fork"),
    )
    assert [(label, image.tobytes()) for image, label, _ in loader] == expected
    assert list(given(images)) == expected


@pytest.fixture(scope="module")
def digits() -> Iterator[Mapping[str, Contents]]:
    """Digits as ImageNet names its images: 8 of each to train on, 2 to validate on."""
    RECIPES[DIGITS.name] = DIGITS
    yield image_layouts.digits(CLASSES, train=8, val=2)
    del RECIPES[DIGITS.name]


@pytest.fixture(scope="module")
def from_folders(digits: Mapping[str, Contents], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on folders that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("folders")
    options = short_runs.images(folder / "run", Path(in_folders(digits, folder / "data")))
    train(dataclasses.replace(options, recipe=DIGITS.name, batch_size=16))
    return options.output


@layouts
def test_training_from_every_layout_gives_equal_weights(
    layout: str, digits: Mapping[str, Contents], from_folders: Path, tmp_path: Path
) -> None:
    """Also where the run is stopped in the middle of an epoch, and goes on with other workers."""
    options = dataclasses.replace(
        short_runs.images(tmp_path / "run", Path(LAYOUTS[layout](digits, tmp_path / "data"))),
        recipe=DIGITS.name,
        batch_size=16,
        workers=2,
    )
    with pytest.raises(RunStopped):
        train(options, [StopAfter(7)])
    train(resumed(options, workers=0))
    assert untimed(options.output) == untimed(from_folders)
    ends = [read_state_dict(run / "model.safetensors") for run in (from_folders, options.output)]
    assert_equal(*ends)
    if layout != "shards":  # they have no names of classes, which a run may keep beside weights
        assert_same_end(from_folders, options.output)


# -- order and names ------------------------------------------------------------------------------


def test_numbers_of_folders_count_as_numbers(tmp_path: Path) -> None:
    """As text, 10 would come before 2, and labels would be wrong without an error."""
    content = noise([str(number) for number in range(120)], train=1, val=1)
    for layout in ("folders", "class archives"):
        images = sets(LAYOUTS[layout](content, tmp_path / layout))[0]
        assert images.class_names == tuple(str(number) for number in range(120))
        assert [int(Path(images.name(i)).stem.split("_")[0]) for i in range(120)] == list(
            images.labels
        )


def test_images_of_a_class_are_in_the_order_of_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    content = noise(CLASSES, train=12, val=1)  # names end in _0 to _77: text order is not natural
    source = in_folders(content, tmp_path / "data")
    images = sets(source)[0]
    expected = ImageFolder(f"{source}/train").samples
    assert [(images.name(i), images.label(i)) for i in range(len(images))] == expected


def test_names_equal_but_for_case_have_one_order(tmp_path: Path) -> None:
    classes = {name: {"1.JPEG": b"-"} for name in ("a1", "A1", "a01", "B")}
    source = in_folders({"train": classes, "val": classes}, tmp_path)
    assert sets(source)[0].class_names == ("A1", "a01", "a1", "B")


def test_folders_in_classes_links_and_circles(tmp_path: Path) -> None:
    content = noise(CLASSES[:2], train=2, val=1)
    source = in_folders(content, tmp_path / "data")
    folder = tmp_path / "data" / "train" / CLASSES[0]
    (folder / "more").mkdir()
    (folder / f"{CLASSES[0]}_0.JPEG").rename(folder / "more" / "deep.JPEG")
    (folder / "more" / "up").symlink_to(folder, target_is_directory=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "linked.PNG").write_bytes(b"")
    (folder / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "notes.txt").write_text("")
    images = sets(source)[0]
    names = [os.path.relpath(images.name(i), folder) for i in range(len(images))]
    assert names[:3] == [f"{CLASSES[0]}_7.JPEG", "linked/linked.PNG", "more/deep.JPEG"]
    assert len(names) == 5


def test_a_name_that_is_no_utf8_is_read(tmp_path: Path) -> None:
    content = noise(CLASSES[:2], train=1, val=1)
    source = in_folders(content, tmp_path)
    folder = os.fsencode(tmp_path / "train" / CLASSES[0])
    os.rename(os.path.join(folder, f"{CLASSES[0]}_0.JPEG".encode()), folder + b"/\xff.JPEG")
    assert list(given(sets(source)[0])) == [
        (label, pixels) for label, _, pixels in held(content["train"])
    ]


# -- unreadable images ----------------------------------------------------------------------------


@layouts
def test_a_damaged_image_is_named(layout: str, tmp_path: Path) -> None:
    content: dict[str, Any] = noise(CLASSES[:2], train=2, val=1)
    for damaged in (b"", b"no image", content["train"][CLASSES[0]][f"{CLASSES[0]}_7.JPEG"][:200]):
        content["train"][CLASSES[0]] |= {f"{CLASSES[0]}_7.JPEG": damaged}
        folder = tmp_path / str(len(damaged))
        images = sets(LAYOUTS[layout](content, folder))[0]
        images[0]
        with pytest.raises(UnreadableImage) as caught:
            images[1]
        assert caught.value.name == images.name(1)
        assert str(folder) in str(caught.value)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_an_image_of_another_kind_is_not_opened(tmp_path: Path) -> None:
    """PostScript, whatever its name is: Pillow would start a program for it."""
    content: dict[str, Any] = noise(CLASSES[:2], train=1, val=1)
    content["train"][CLASSES[0]] = {"0.JPEG": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"}
    images = sets(in_folders(content, tmp_path))[0]
    with pytest.raises(UnreadableImage, match="cannot identify"):
        images[0]
