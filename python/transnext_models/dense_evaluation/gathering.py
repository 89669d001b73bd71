"""The answers of several processes as those of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

__all__ = ["each_image_once"]


class _OfImage(Protocol):
    @property
    def image_id(self) -> int | str: ...


T = TypeVar("T", bound=_OfImage)


def each_image_once(parts: Iterable[Iterable[T]], image_ids: Sequence[int | str]) -> list[T]:
    """Return the answers of several processes in the order of the set, one for each image.

    Samplers that fill their last batches give some images to two processes.

    Parameters
    ----------
    parts : Iterable[Iterable[T]]
        Of each process, answers with their `image_id`.
    image_ids : Sequence[int | str]
        Of the set.

    Raises
    ------
    ValueError
        There is no answer to an image, or one to an image that is not in the set.
    """
    answers: dict[int | str, T] = {}
    for part in parts:
        for answer in part:
            answers.setdefault(answer.image_id, answer)
    missing = [image_id for image_id in image_ids if image_id not in answers]
    strange = answers.keys() - set(image_ids)
    if missing or strange:
        what, ids = ("miss", missing) if missing else ("have unknown", sorted(strange, key=str))
        raise ValueError(f"predictions: {what} {len(ids)} of the set's images, {ids[0]} the first")
    return [answers[image_id] for image_id in image_ids]
