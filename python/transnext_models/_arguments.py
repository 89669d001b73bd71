"""Checks of a model's arguments; each error names the argument, what came and what is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")

MIN_SIZE = 32  # of an image: one token in the last stage
STAGES = 4


def check_stages(**values: Sequence[float]) -> None:
    """Each must have one positive number for each stage."""
    for name, numbers in values.items():
        if len(numbers) != STAGES or min(numbers) <= 0:
            raise ValueError(f"{name}: four positive numbers are needed, got {numbers!r}")


def check_positive(**values: int | None) -> None:
    """Each must be a positive int, or None."""
    for name, value in values.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name}: a positive int is needed, got {value!r}")


def square_side(name: str, value: int | Sequence[int]) -> int:
    """The side of a square image, given as an int or as an equal pair."""
    sides = tuple(value) if isinstance(value, Sequence) else (value,)
    if len(set(sides)) != 1 or not isinstance(sides[0], int) or sides[0] < MIN_SIZE:
        raise ValueError(
            f"{name}: the side of a square image, at least {MIN_SIZE}, is needed, got {value!r}"
        )
    return sides[0]


def one_of(name: str, value: T, allowed: tuple[T, ...]) -> T:
    """``value``, which must be one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name}: one of {', '.join(map(repr, allowed))} is needed, got {value!r}")
    return value


def check_images(x: Tensor, in_chans: int) -> None:
    """Images must be floating-point ``[B, in_chans, H, W]`` of at least the smallest size."""
    if x.ndim != 4 or x.shape[1] != in_chans:
        raise ValueError(
            f"x: a batch of images [B, {in_chans}, H, W] is needed, got shape {tuple(x.shape)}"
        )
    if x.shape[2] < MIN_SIZE or x.shape[3] < MIN_SIZE:
        raise ValueError(
            f"x: images of at least {MIN_SIZE} x {MIN_SIZE} are needed, "
            f"got {x.shape[2]} x {x.shape[3]}"
        )
    if not x.is_floating_point():
        raise TypeError(f"x: floating-point images are needed, got {x.dtype}")
