"""Argument checks of the public operators: each names the argument, what came, what is needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from transnext_ops.backends.registry import ACTIVATION_DTYPES
from transnext_ops.schema import Operator, Role, compute_dtype, make_function

Grid = tuple[int, int]

_NAME = re.compile(r"[A-Za-z_]\w*")  # in an axis: a number, a name, or a product of them
LARGEST_WINDOW = 4096  # on a side; beyond, the number of cells is a mistake rather than a wish


def check_grid(name: str, grid: object) -> Grid:
    """Return `grid` as a tuple of two positive ints."""
    if type(grid) is tuple and len(grid) == 2:
        height, width = grid
        if type(height) is int and type(width) is int and height > 0 and width > 0:
            return height, width
    if not isinstance(grid, (tuple, list, torch.Size)):
        raise TypeError(f"{name}: got {type(grid).__name__}, needs a tuple (height, width) of ints")
    if len(grid) != 2:
        raise ValueError(f"{name}: got {len(grid)} values, needs two (height, width)")
    for value in grid:
        if isinstance(value, (bool, float)) or not hasattr(value, "__index__"):
            raise TypeError(f"{name}: got {grid!r}, needs a tuple (height, width) of ints")
    height, width = grid
    if torch.jit.is_tracing():  # where sizes are tensors; a trace fixes them
        height, width = int(height), int(width)
    if height < 1 or width < 1:
        raise ValueError(f"{name}: got {height}x{width}, needs a height and width of at least 1")
    return height, width


def check_window_size(window_size: object) -> int:
    """Return `window_size` as an int from 1 to 4096."""
    if type(window_size) is int and 0 < window_size <= LARGEST_WINDOW:
        return window_size
    if isinstance(window_size, (bool, float)) or not hasattr(window_size, "__index__"):
        raise TypeError(f"window_size: got {window_size!r}, needs an int of at least 1")
    if window_size < 1:  # type: ignore[operator]
        raise ValueError(f"window_size: got {window_size}, needs an int of at least 1")
    if window_size > LARGEST_WINDOW:  # type: ignore[operator]
        raise ValueError(f"window_size: got {window_size}, needs at most {LARGEST_WINDOW}")
    return window_size  # type: ignore[return-value]


def check_activation(name: str, tensor: object, layout: str) -> Tensor:
    """Check the tensor that sets the call's dtype and device; `layout` is like ``[B, N, h, d]``."""
    _check_is_tensor(name, tensor)
    assert isinstance(tensor, Tensor)
    if tensor.dtype not in ACTIVATION_DTYPES:
        raise TypeError(f"{name}: got {tensor.dtype}, needs float32, float16, bfloat16 or float64")
    dimensions = layout.count(",") + 1
    if tensor.dim() != dimensions:
        raise ValueError(
            f"{name}: got {tensor.dim()} dimensions {_sizes(tensor)}, needs {dimensions}: {layout}"
        )
    if not torch.jit.is_tracing() and tensor.numel() == 0:  # a trace would record the question
        check_not_empty(name, tensor, layout, first=1)
    return tensor


def check_tokens(
    name: str, tensor: Tensor, layout: str, grid: Grid, grid_name: str = "grid"
) -> torch.Size:
    """Check the activation of :func:`check_activation` and that its axis N is a grid's tokens.

    Returns
    -------
    torch.Size
        The tensor's shape, as `layout` names it.
    """
    check_activation(name, tensor, layout)
    axis = layout[: layout.index("N")].count(",")
    height, width = grid
    if tensor.shape[axis] != height * width:
        raise ValueError(
            f"{name}: got {tensor.shape[axis]} tokens in dimension {axis}, needs {grid_name} "
            f"{height}x{width} = {height * width}"
        )
    return tensor.shape


def check_like(
    name: str, tensor: object, layout: str, sizes: tuple[int, ...], like_name: str, like: Tensor
) -> Tensor:
    """Check an activation against sizes and against the dtype and device of the first one."""
    if _is_right(tensor, sizes, like.dtype, like):
        return tensor  # type: ignore[return-value]
    _check_is_tensor(name, tensor)
    assert isinstance(tensor, Tensor)
    _check_shape(name, tensor, layout, sizes)
    if tensor.dtype != like.dtype:
        raise TypeError(
            f"{name}: got {tensor.dtype}, needs {like_name}'s dtype {like.dtype} "
            "(cast one of them, or run both under torch.autocast)"
        )
    _check_device(name, tensor, like_name, like)
    return tensor


def check_parameter(
    name: str, tensor: object, layout: str, sizes: tuple[int, ...], like_name: str, like: Tensor
) -> Tensor:
    """Check a parameter's shape and device; return it in the arithmetic type of the call."""
    compute = compute_dtype(like.dtype)
    if _is_right(tensor, sizes, compute, like):
        return tensor  # type: ignore[return-value]
    _check_is_tensor(name, tensor)
    assert isinstance(tensor, Tensor)
    _check_shape(name, tensor, layout, sizes)
    if not tensor.is_floating_point():
        raise TypeError(f"{name}: got {tensor.dtype}, needs a floating-point tensor")
    _check_device(name, tensor, like_name, like)
    return tensor if tensor.dtype == compute else tensor.to(compute)


def tensor_checks(operator: Operator, like_name: str, names: Sequence[str]) -> Callable[..., Any]:
    """Return the function that checks tensors of a call against their record.

    Parameters
    ----------
    operator : Operator
    like_name : str
        The activation that sets the call's dtype and device.
    names : sequence of str
        The tensors to check.

    Returns
    -------
    callable
        Takes that activation, the tensors in the order of `names`, and the lengths of their axes by
        name; returns the tensors as the operator takes them. None may stand for a parameter that is
        optional.
    """
    axes: dict[str, None] = {}
    body = []
    for name in names:
        tensor = operator.by_name[name]
        axes.update((part, None) for axis in tensor.axes for part in _NAME.findall(axis))
        described = f"{name!r}, {name}, {tensor.layout!r}, ({', '.join(tensor.axes)},)"
        is_parameter = tensor.role is Role.PARAMETER
        check = "check_parameter" if is_parameter else "check_like"
        line = f"{name} = {check}({described}, {like_name!r}, like)"
        absent = f"if {name} is not None: " if is_parameter and tensor.optional else ""
        body.append(absent + line)
    return make_function(
        f"check_{operator.name}",
        ["like", *names, "*", *axes],
        [*body, f"return {', '.join(names)}"],
        __name__=__name__,
        check_like=check_like,
        check_parameter=check_parameter,
    )


def check_not_empty(name: str, tensor: Tensor, layout: str, *, first: int = 0) -> None:
    """Check that no size from dimension `first` on is 0: an activation's batch may be."""
    if any(size == 0 for size in tensor.shape[first:]):
        but = " but the batch" if first else ""
        raise ValueError(
            f"{name}: got shape {_sizes(tensor)}, needs {layout} with no size of 0{but}"
        )


def _is_right(tensor: object, sizes: tuple[int, ...], dtype: torch.dtype, like: Tensor) -> bool:
    """Say whether nothing is wrong with a tensor: the usual case, decided without messages."""
    return (
        isinstance(tensor, Tensor)
        and tensor.shape == sizes
        and tensor.dtype == dtype
        and tensor.device == like.device
        and tensor.layout == torch.strided
    )


def _check_is_tensor(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: got {type(tensor).__name__}, needs a torch.Tensor")
    if tensor.is_nested:
        raise TypeError(f"{name}: got a nested tensor, needs a dense one (one batch per size)")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name}: got layout {tensor.layout}, needs a dense (strided) tensor")


def _check_shape(name: str, tensor: Tensor, layout: str, sizes: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != tuple(sizes):
        needed = ", ".join(str(size) for size in sizes)
        raise ValueError(f"{name}: got shape {_sizes(tensor)}, needs {layout} = [{needed}]")


def _check_device(name: str, tensor: Tensor, like_name: str, like: Tensor) -> None:
    if tensor.device != like.device:
        raise ValueError(
            f"{name}: got device {tensor.device}, needs {like_name}'s device {like.device}"
        )


def _sizes(tensor: Tensor) -> str:
    return "[" + ", ".join(str(size) for size in tensor.shape) + "]"
