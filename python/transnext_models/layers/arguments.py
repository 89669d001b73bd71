"""Checks of a model's arguments; each error says `argument: got X, needs Y`."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import TypeVar

from torch import Tensor
from torch.fx import Proxy

from ..variants import MIN_SIZE

T = TypeVar("T")

STAGES = 4


def check_architecture(
    embed_dims: Sequence[int],
    num_heads: Sequence[int],
    depths: Sequence[int],
    sr_ratios: Sequence[int],
    mlp_ratios: Sequence[float],
) -> None:
    """Check what the four stages are made of."""
    check_stages(
        int, embed_dims=embed_dims, num_heads=num_heads, depths=depths, sr_ratios=sr_ratios
    )
    check_stages(Real, mlp_ratios=mlp_ratios)
    check_heads(embed_dims, num_heads)


def check_stages(kind: type[Real] | type[int], **values: Sequence[float]) -> None:
    """Check that each has one positive number for each stage, of type ``kind``."""
    what = "ints" if kind is int else "numbers"
    for name, numbers in values.items():
        if (
            not isinstance(numbers, Sequence)
            or len(numbers) != STAGES
            or not all(isinstance(number, kind) and number > 0 for number in numbers)
        ):
            raise ValueError(f"{name}: got {numbers!r}, needs four positive {what}")


def check_heads(embed_dims: Sequence[int], num_heads: Sequence[int]) -> None:
    """Check that each stage's heads divide its width."""
    for dim, heads in zip(embed_dims, num_heads, strict=True):
        if dim % heads:
            raise ValueError(
                f"num_heads: got {tuple(num_heads)!r}, "
                f"needs divisors of embed_dims {tuple(embed_dims)!r}"
            )


def check_int(least: int, **values: int | None) -> None:
    """Check that each is an int of at least ``least``, or None."""
    what = "a positive int" if least == 1 else f"an int of at least {least}"
    for name, value in values.items():
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < least
        ):
            raise ValueError(f"{name}: got {value!r}, needs {what}")


def check_rates(**values: float) -> None:
    """Check that each is a probability below 1."""
    for name, value in values.items():
        if not isinstance(value, Real) or not 0.0 <= value < 1.0:
            raise ValueError(f"{name}: got {value!r}, needs a probability in [0, 1)")


def square_side(name: str, value: int | Sequence[int]) -> int:
    """Return the side of a square image, given as an int or as an equal pair."""
    sides = tuple(value) if isinstance(value, Sequence) else (value,)
    if len(set(sides)) != 1 or not isinstance(sides[0], int) or sides[0] < MIN_SIZE:
        raise ValueError(
            f"{name}: got {value!r}, needs the side of a square image, at least {MIN_SIZE}"
        )
    return sides[0]


def one_of(name: str, value: T, allowed: tuple[T, ...]) -> T:
    """Return ``value``, which must be one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, needs one of {', '.join(map(repr, allowed))}")
    return value


def check_images(x: Tensor, in_chans: int) -> None:
    """Check that images are floating-point ``[B, in_chans, H, W]``, no side below `MIN_SIZE`."""
    if isinstance(x, Proxy):  # torch.fx records the call; there is nothing to look at
        return
    if not isinstance(x, Tensor):
        raise TypeError(f"x: got {type(x).__name__}, needs a torch.Tensor")
    if x.ndim != 4 or x.shape[1] != in_chans:
        raise ValueError(
            f"x: got shape {tuple(x.shape)}, needs a batch of images [B, {in_chans}, H, W]"
        )
    if x.shape[2] < MIN_SIZE or x.shape[3] < MIN_SIZE:
        raise ValueError(
            f"x: got {x.shape[2]} x {x.shape[3]}, needs images of at least {MIN_SIZE} x {MIN_SIZE}"
        )
    if not x.is_floating_point():
        raise TypeError(f"x: got {x.dtype}, needs floating-point images")
