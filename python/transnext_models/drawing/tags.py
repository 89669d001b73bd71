"""Where the names of boxes go: beside them, hiding neither each other nor small objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["place_tags"]

Box = tuple[float, float, float, float]  # left, top, right, bottom

# What a place costs: hiding other tags and small objects most, then what is farther from the usual.
_TAGS, _SMALL, _LARGE, _OWN, _NEXT = 12.0, 3.0, 0.15, 1.0, 0.04
_SMALL_TO = 6.0  # areas of the tag
_MOST_COST = 2.0  # a place that costs more is none


def place_tags(
    boxes: Sequence[Box], sizes: Sequence[Sequence[tuple[int, int]]], room: tuple[int, int]
) -> list[tuple[int, tuple[int, int]] | None]:
    """Return a place for the tag of each box.

    Parameters
    ----------
    boxes : sequence of (left, top, right, bottom)
        In pixels, the most important first.
    sizes : sequence of sequences of (width, height)
        Of each tag, in forms from the best to the smallest.
    room : (int, int)
        Width and height of the picture.

    Returns
    -------
    list
        For each box the form, and left and top of its place; None where each would hide too much.
    """
    objects = np.array(boxes, np.float64).reshape(-1, 4)
    areas = _areas(objects)
    placed = np.zeros((0, 4))
    places: list[tuple[int, tuple[int, int]] | None] = []
    for index, forms in enumerate(sizes):
        best = None
        for form, (width, height) in enumerate(forms):
            spots = _spots(objects[index], width, height, room)
            tags = np.concatenate([spots, spots + np.array([width, height])], 1)
            hidden = _overlaps(tags, placed).sum(1) / (width * height)
            costs = _TAGS * hidden + _NEXT * np.arange(len(tags))
            shared = _overlaps(tags, objects) / np.maximum(areas, 1.0)
            is_small = areas < _SMALL_TO * width * height
            weights = np.where(is_small, _SMALL, _LARGE)
            weights[index] = _OWN
            costs += (shared * weights).sum(1)
            choice = int(costs.argmin())
            if costs[choice] <= _MOST_COST:
                best = (form, (int(spots[choice, 0]), int(spots[choice, 1])))
                placed = np.concatenate([placed, tags[choice : choice + 1]])
                break
        places.append(best)
    return places


def _spots(
    box: NDArray[np.float64], width: int, height: int, room: tuple[int, int]
) -> NDArray[np.float64]:
    """Return left and top of places for a tag beside a box and in its corners, the usual first."""
    left, top, right, bottom = box
    spots = [
        (left, top - height), (left, top), (left, bottom), (right - width, top - height),
        (right - width, bottom), (right, top), (left - width, top), (right - width, top),
        (left, bottom - height), (right, bottom - height), (left - width, bottom - height),
    ]  # fmt: skip
    most = np.maximum(np.array([room[0] - width, room[1] - height]), 0)
    return np.clip(np.round(spots), 0, most)


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(boxes[:, 2] - boxes[:, 0], 0, None) * np.clip(boxes[:, 3] - boxes[:, 1], 0, None)


def _overlaps(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the areas ``[n, m]`` that n and m boxes share."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.clip(high - low, 0, None).prod(-1)
