"""Hypothesis strategies for the operators' inputs: they draw the shape of a case, not its numbers.

A drawn case is a small frozen dataclass that prints as itself, so that a failure can be pasted
into a test. Its tensors come from a seeded generator. The strategies lean towards the edges: axes
of 1, grids smaller than the window, even windows, pools that do not divide, strided views, empty
batches, head dims 8 to 128, extreme logits, zero vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

import transnext_ops as ops
from benchmarks.shapes.grids import OnGrids

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LAYOUTS = ("contiguous", "packed", "transposed", "sliced", "strided", "expanded")
MAGNITUDES = ("ordinary", "extreme logits", "zero vectors", "tiny")

dtypes = st.sampled_from(DTYPES)
layouts = st.sampled_from(LAYOUTS)
batches = st.sampled_from((1, 2, 3, 0))
heads = st.sampled_from((1, 2, 3))
head_dims = st.sampled_from((24, 8, 16, 32, 40, 64, 128, 9))
window_sizes = st.sampled_from((3, 1, 2, 5, 4, 7))
grids = st.tuples(st.integers(1, 9), st.integers(1, 9))
seeds = st.integers(0, 2**32 - 1)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class Numbers:
    """A seeded source of tensors in a given layout, on the device of :func:`numbers_on`."""

    _device = torch.device("cpu")

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def normal(self, *shape: int) -> np.ndarray:
        return self.generator.standard_normal(shape)

    def parameter(self, *shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
        return self.tensor(self.normal(*shape) * scale, compute_dtype(dtype))

    def tensor(self, values: np.ndarray, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(values).to(dtype).to(self._device)

    def activation(
        self,
        *shape: int,
        dtype: torch.dtype,
        layout: str = "contiguous",
        scale: float = 1.0,
        zeros: bool = False,
    ) -> Tensor:
        """Return values of `shape` in memory as `layout` says, the gaps filled with NaN; with
        `zeros`, about three of the tokens (dimension 1) are zero vectors."""
        values = self.normal(*shape) * scale
        if zeros:
            values[:, :: max(1, shape[1] // 3)] = 0
        return with_layout(self.tensor(values, dtype), layout)


@contextmanager
def numbers_on(device: torch.device) -> Iterator[None]:
    """Make the numbers of a ``with`` block on a device: the same ones, rounded on the processor.

    Not torch's default device, which is a mode: a call of an operator would see it.
    """
    before, Numbers._device = Numbers._device, device
    try:
        yield
    finally:
        Numbers._device = before


def with_layout(values: Tensor, layout: str) -> Tensor:
    """Return a view that holds `values` in another memory layout, NaN around it."""
    if layout == "contiguous":
        return values.contiguous()
    if layout == "transposed":  # dimensions 1 and 2 swapped in memory: head-major for token-major
        return values.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "packed":  # one of three slices of a packed Linear output
        packed = _nan(values, (*values.shape[:2], 3, *values.shape[2:]))
        packed[:, :, 1] = values
        return packed[:, :, 1]
    if layout == "sliced":  # every second element of every axis, at an odd offset
        shape = tuple(2 * size + 1 for size in values.shape)
        storage = _nan(values, shape)
        view = storage[tuple(slice(1, None, 2) for _ in shape)]
        view.copy_(values)
        return view
    if layout == "strided":  # every second element of the last axis, from the first on
        storage = _nan(values, (*values.shape, 2))
        storage[..., 0] = values
        return storage[..., 0]
    if layout == "expanded":  # one batch entry seen by the whole batch: stride 0
        if values.shape[0] == 0:
            return values
        return values[:1].expand(values.shape)
    raise ValueError(layout)


def _nan(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return like.new_full(shape, float("nan"))


@dataclass(frozen=True)
class AttentionCase(OnGrids):
    """One call of aggregated (or, with window_size 0, global) attention."""

    batch: int
    grid: tuple[int, int]
    heads: int
    head_dim: int
    pool_grid: tuple[int, int]
    window_size: int
    dtype: torch.dtype
    layout: str
    magnitude: str
    bias: str  # "none", "dense", "extrapolated", "interpolated"
    optional: tuple[bool, bool, bool, bool]  # query_embedding, local_bias, tokens, token_bias
    seed: int

    @property
    def work(self) -> int:
        return self.window_size**2 + self.pool_length + self.head_dim

    def tensors(self) -> dict[str, Any]:
        """Return the call's tensors by argument name (pool_bias a Tensor, PositionBias or None)."""
        numbers = Numbers(self.seed)
        shape = (self.batch, self.length, self.heads, self.head_dim)
        pool_shape = (self.batch, self.pool_length, self.heads, self.head_dim)
        scale = 1e-6 if self.magnitude == "tiny" else 1.0
        named: dict[str, Any] = {}
        for name in ("q", "k", "v", "k_pool", "v_pool"):
            is_value = name.startswith("v")
            named[name] = numbers.activation(
                *(pool_shape if name.endswith("pool") else shape),
                dtype=self.dtype,
                layout=self.layout,
                scale=1.0 if is_value else scale,
                zeros=self.magnitude == "zero vectors" and not is_value,
            )
        head_scale = np.abs(numbers.normal(self.heads)) + 0.5
        if self.magnitude == "extreme logits":
            head_scale = head_scale * 5e3
        compute = compute_dtype(self.dtype)
        named["scale"] = numbers.tensor(head_scale, compute)
        window_length = self.window_size**2
        window = (self.heads, window_length)
        optional_shapes = {
            "query_embedding": (self.heads, self.head_dim),
            "local_bias": window,
            "tokens": (self.heads, self.head_dim, window_length),
            "token_bias": window,
        }
        for (name, sizes), given in zip(optional_shapes.items(), self.optional, strict=True):
            value = numbers.parameter(*sizes, dtype=self.dtype, scale=0.3)
            named[name] = value if given else None
        named["pool_bias"] = self._bias(numbers)
        if self.window_size == 0:
            for name in ("k", "v", "local_bias", "tokens", "token_bias"):
                named[name] = None
        return named

    def _bias(self, numbers: Numbers) -> Tensor | ops.PositionBias | None:
        compute = compute_dtype(self.dtype)
        if self.bias == "none":
            return None
        if self.bias == "dense":
            return numbers.parameter(self.heads, self.length, self.pool_length, dtype=self.dtype)
        mlp = [
            numbers.parameter(*sizes, dtype=compute)
            for sizes in ((16, 2), (16,), (self.heads, 16), (self.heads,))
        ]
        train = {}
        if self.bias == "interpolated":
            train = {"train_grid": (4, 4), "train_pool_grid": (2, 2)}
        return ops.position_bias(
            *mlp,
            grid=self.grid,
            pool_grid=self.pool_grid,
            pretrain_grid=(4, 4),
            backend="torch",
            **train,
        )


@st.composite
def attention_cases(
    draw: st.DrawFn,
    *,
    window: st.SearchStrategy[int] = window_sizes,
    dtype: st.SearchStrategy[torch.dtype] = dtypes,
    head_dim: st.SearchStrategy[int] = head_dims,
) -> AttentionCase:
    grid = draw(grids)
    window_size = draw(window)
    if window_size == 0:
        pool_grid = grid
    else:
        pool_grid = (draw(st.integers(1, grid[0])), draw(st.integers(1, grid[1])))
    return AttentionCase(
        batch=draw(batches),
        grid=grid,
        heads=draw(heads),
        head_dim=draw(head_dim),
        pool_grid=pool_grid,
        window_size=window_size,
        dtype=draw(dtype),
        layout=draw(layouts),
        magnitude=draw(st.sampled_from(MAGNITUDES)),
        bias=draw(st.sampled_from(("extrapolated", "interpolated", "dense", "none"))),
        optional=draw(st.one_of(st.just((True,) * 4), st.tuples(*[st.booleans()] * 4))),
        seed=draw(seeds),
    )


@dataclass(frozen=True)
class TokenCase(OnGrids):
    """One call of an operator on tokens (conv_glu, gelu_pool) or windows."""

    batch: int
    grid: tuple[int, int]
    channels: int
    dtype: torch.dtype
    layout: str
    seed: int
    heads: int = 1
    window_size: int = 3
    pool_grid: tuple[int, int] = (1, 1)
    with_bias: bool = True
    numbers: Numbers = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", Numbers(self.seed))


@st.composite
def token_cases(
    draw: st.DrawFn,
    *,
    channels: st.SearchStrategy[int] | None = None,
    dtype: st.SearchStrategy[torch.dtype] = dtypes,
) -> TokenCase:
    grid = draw(grids)
    return TokenCase(
        batch=draw(batches),
        grid=grid,
        channels=draw(st.sampled_from((24, 1, 3, 8, 17, 64)) if channels is None else channels),
        dtype=draw(dtype),
        layout=draw(layouts),
        seed=draw(seeds),
        heads=draw(heads),
        window_size=draw(window_sizes),
        pool_grid=(draw(st.integers(1, grid[0])), draw(st.integers(1, grid[1]))),
        with_bias=draw(st.booleans()),
    )


@dataclass(frozen=True)
class PositionBiasCase:
    """One call of position_bias; a pooled grid is given by its fractions of the grid's axes."""

    grid: tuple[int, int]
    pool: tuple[float, float]
    pretrain: tuple[int, int]
    train: tuple[tuple[int, int], tuple[float, float]] | None  # a grid and its pool's fractions
    heads: int
    hidden: int
    seed: int
    dtype: torch.dtype = torch.float32  # of the parameters, whatever activations are stored as

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """The call's grids by argument name."""
        sizes = {"grid": self.grid, "pool_grid": _pooled(self.grid, self.pool)}
        sizes["pretrain_grid"] = self.pretrain
        if self.train is not None:
            sizes |= {"train_grid": self.train[0], "train_pool_grid": _pooled(*self.train)}
        return sizes

    def parameters(self) -> dict[str, Tensor]:
        """Return the bias MLP's parameters by argument name, as leaves."""
        numbers = Numbers(self.seed)
        shapes = {
            "fc1_weight": (self.hidden, 2),
            "fc1_bias": (self.hidden,),
            "fc2_weight": (self.heads, self.hidden),
            "fc2_bias": (self.heads,),
        }
        return {
            name: numbers.parameter(*shape, dtype=self.dtype).requires_grad_()
            for name, shape in shapes.items()
        }


def _pooled(grid: tuple[int, int], fractions: tuple[float, float]) -> tuple[int, int]:
    height, width = (max(1, round(size * part)) for size, part in zip(grid, fractions, strict=True))
    return height, width


@st.composite
def position_bias_cases(
    draw: st.DrawFn,
    *,
    hidden: tuple[int, ...] = (1, 16, 37),
    dtype: st.SearchStrategy[torch.dtype] | None = None,
) -> PositionBiasCase:
    fractions = st.tuples(st.floats(0, 1), st.floats(0, 1))
    return PositionBiasCase(
        grid=draw(grids),
        pool=draw(fractions),
        pretrain=draw(grids),
        train=draw(st.one_of(st.none(), st.tuples(grids, fractions))),
        heads=draw(heads),
        hidden=draw(st.sampled_from(hidden)),
        seed=draw(seeds),
        dtype=torch.float32 if dtype is None else draw(dtype),
    )
