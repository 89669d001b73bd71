"""The two sliding-window products, to build attention of another kind with.

Head-major ``[B, h, N, d]``, as the published CUDA extension has them; strided views (a token-major
tensor transposed) are read in place.
"""

from __future__ import annotations

from torch import Tensor

from transnext_ops.cupy_arrays import accepts_cupy
from transnext_ops.dispatch.autocast import autocast_activations
from transnext_ops.dispatch.run import run
from transnext_ops.operators.checks import (
    Grid,
    check_grid,
    check_tokens,
    check_window_size,
    tensor_checks,
)
from transnext_ops.schema import WINDOW_AV, WINDOW_QK

_check_qk = tensor_checks(WINDOW_QK, "q", ("k", "bias"))
_check_av = tensor_checks(WINDOW_AV, "v", ("attn",))


@accepts_cupy
def window_qk(
    q: Tensor,
    k: Tensor,
    bias: Tensor | None = None,
    *,
    grid: Grid,
    window_size: int,
    backend: str | None = None,
) -> Tensor:
    """Return the product of every query with the keys of its window, plus a bias.

    Parameters
    ----------
    q, k : Tensor [B, h, N, d]
        Used as they are (no normalisation, no scale).
    bias : Tensor [h, L], optional
        Added to each window cell; L = window_size².
    grid : (int, int)
        (H, W) with H·W = N.
    window_size : int
    backend : str, optional
        Overrides the backend in force for this call.

    Returns
    -------
    Tensor [B, h, N, L]
        ``q[n] · k[n + offset_j] + bias[j]``, cells row-major; -inf outside the image, from where no
        gradient comes.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, device or shape; the message names it.
    BackendError
        The backend asked for by name cannot run the call.
    """
    q, k = autocast_activations(q, k)
    grid, window_size, axes = check_windows("q", q, grid, window_size)
    k, bias = _check_qk(q, k, bias, **axes, d=q.shape[3])
    arguments = (q, k, bias, grid, window_size)
    return run("window_qk", q, arguments, backend, head_dim=q.shape[3], window_size=window_size)


@accepts_cupy
def window_av(
    attn: Tensor,
    v: Tensor,
    *,
    grid: Grid,
    window_size: int,
    backend: str | None = None,
) -> Tensor:
    """Return the sum of the values of every query's window, weighted by `attn`.

    Parameters
    ----------
    attn : Tensor [B, h, N, L]
        Weights, L = window_size²; those of cells outside the image are not read.
    v : Tensor [B, h, N, d]
    grid : (int, int)
        (H, W) with H·W = N.
    window_size : int
    backend : str, optional
        Overrides the backend in force for this call.

    Returns
    -------
    Tensor [B, h, N, d]
        ``sum_j attn[n, j] v[n + offset_j]``, values outside the image being 0.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, device or shape; the message names it.
    BackendError
        The backend asked for by name cannot run the call.
    """
    attn, v = autocast_activations(attn, v)
    grid, window_size, axes = check_windows("v", v, grid, window_size)
    attn = _check_av(v, attn, **axes)
    arguments = (attn, v, grid, window_size)
    return run("window_av", v, arguments, backend, head_dim=v.shape[3], window_size=window_size)


def check_windows(
    name: str, tensor: Tensor, grid: Grid, window_size: int, grid_name: str = "grid"
) -> tuple[Grid, int, dict[str, int]]:
    """Check a product's head-major activation; return grid, window size, and lengths by axis."""
    grid, window_size = check_grid(grid_name, grid), check_window_size(window_size)
    batch, heads, length, _ = check_tokens(name, tensor, "[B, h, N, d]", grid, grid_name)
    return grid, window_size, {"B": batch, "h": heads, "N": length, "L": window_size * window_size}
