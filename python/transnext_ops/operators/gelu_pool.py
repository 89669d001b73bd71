"""Adaptive average pooling of GELU(x) on tokens: the coarse view of aggregated attention."""

from __future__ import annotations

from torch import Tensor

from transnext_ops.cupy_arrays import accepts_cupy
from transnext_ops.dispatch.autocast import autocast_activations
from transnext_ops.dispatch.run import run
from transnext_ops.operators.checks import Grid, check_grid, check_tokens
from transnext_ops.tracing import known_true


@accepts_cupy
def gelu_pool(x: Tensor, *, grid: Grid, pool_grid: Grid, backend: str | None = None) -> Tensor:
    """Return the adaptive average pooling of GELU(x).

    Source: TransNeXt paper (arXiv 2311.17132), section 3.1.1, activate-and-pool.

    Parameters
    ----------
    x : Tensor [B, N, C]
        Tokens of any strides.
    grid, pool_grid : (int, int)
        (H, W) with H·W = N; (Hp, Wp), at most the grid on each axis. Bin a of an axis covers
        ⌊a·H/Hp⌋ up to ⌈(a+1)·H/Hp⌉, exclusive, as ``torch.nn.AdaptiveAvgPool2d`` has it.
    backend : str, optional
        Overrides the backend in force for this call.

    Returns
    -------
    Tensor [B, P, C]
        In x's dtype (autocast's, where that is active). The GELU is the exact (erf) one.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, device or shape, or `pool_grid` is larger than
        `grid`; the message names it.
    BackendError
        The backend asked for by name cannot run the call.
    """
    (x,) = autocast_activations(x)
    grid, pool_grid = check_grid("grid", grid), check_grid("pool_grid", pool_grid)
    check_tokens("x", x, "[B, N, C]", grid)
    if known_true(pool_grid[0] > grid[0]) or known_true(pool_grid[1] > grid[1]):
        raise ValueError(
            f"pool_grid: got {pool_grid[0]}x{pool_grid[1]}, needs at most the grid "
            f"{grid[0]}x{grid[1]}"
        )
    return run("gelu_pool", x, (x, grid, pool_grid), backend)
