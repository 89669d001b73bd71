"""Images that cannot be read: skipped, counted, and an error where there are too many."""

from __future__ import annotations

import pytest

from transnext_models.training.image_reading import READABLE, UnreadableImages


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
    first, *listed = str(caught.value).split("\n")
    assert first == (
        f"--data: {allowed + 1} of {total} validation images cannot be read, more than 0.1%: "
        "repair or remove them:"
    )
    assert listed == [*names, "one/too/many.jpg"]


def test_a_list_has_an_end() -> None:
    found = UnreadableImages(range(1000), "training")
    with pytest.raises(RuntimeError, match=r"\nand 50 more, named before$") as caught:
        found.note([f"{number}.jpg" for number in range(150)])
    assert len(str(caught.value).split("\n")) == 102
