"""Images that cannot be read: skipped, counted, and an error where there are too many."""

from __future__ import annotations

import multiprocessing

import pytest
from torch.utils.data import DataLoader, Dataset

from transnext_models.training.image_reading import READABLE, UnreadableImages, plain_errors
from transnext_models.training.sources.streams import LoadingError


def test_images_are_named_once_and_counted() -> None:
    found = UnreadableImages(range(10_000), "training")
    assert found.note([READABLE, READABLE]) == []
    assert found.note(["b.jpg", READABLE, "a.jpg", "b.jpg"]) == ["a.jpg", "b.jpg"]
    assert found.note(["b.jpg", "c.jpg"]) == ["c.jpg"]
    assert len(found) == 3


@pytest.mark.parametrize(("total", "allowed"), [(5, 1), (1999, 1), (2000, 2), (50_000, 50)])
def test_more_than_a_thousandth_is_an_error_that_lists_them(total: int, allowed: int) -> None:
    """One image alone is never too many."""
    found = UnreadableImages(range(total), "validation")
    names = [f"{number}.jpg" for number in range(allowed)]
    for name in names:
        found.note([name])
    found.note(names)
    with pytest.raises(RuntimeError) as caught:
        found.note(["one/too/many.jpg"])
    assert str(caught.value) == (
        f"--data: {allowed + 1} of {total} validation images cannot be read, more than 0.1%: "
        f"repair or remove {', '.join([*names, 'one/too/many.jpg'])}"
    )


def test_a_list_has_an_end() -> None:
    found = UnreadableImages(range(1000), "training")
    with pytest.raises(RuntimeError, match=r", and 50 more, named before$") as caught:
        found.note([f"{number}.jpg" for number in range(150)])
    assert str(caught.value).count(".jpg") == 100


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_loading_processes_are_as_short_as_ones_own(workers: int) -> None:
    class Failing(Dataset[int]):
        def __getitem__(self, index: int) -> int:
            if index == 2:
                raise LoadingError("--data: out of reach")
            return index

    loader: DataLoader[int] = DataLoader(Failing(), sampler=range(5), num_workers=workers)
    batches = plain_errors(iter(loader))
    assert [next(batches).item() for _ in range(2)] == [0, 1]
    with pytest.raises(LoadingError) as caught:
        next(batches)
    assert str(caught.value) == "--data: out of reach"
    assert not multiprocessing.active_children()  # however long the error is kept
