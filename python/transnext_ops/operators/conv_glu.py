"""The gate of the Convolutional GLU, GELU(dwconv(a)) ⊙ g, on tokens.

Source: TransNeXt paper (arXiv 2311.17132), section 3.2.
"""

from __future__ import annotations

from torch import Tensor

from transnext_ops.cupy_arrays import accepts_cupy
from transnext_ops.dispatch.autocast import autocast_activations
from transnext_ops.dispatch.run import run
from transnext_ops.operators.checks import Grid, check_grid, check_tokens, tensor_checks
from transnext_ops.schema import CONV_GLU

_check = tensor_checks(CONV_GLU, "x", ("weight", "bias", "x_bias"))


@accepts_cupy
def conv_glu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    grid: Grid,
    x_bias: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Return GELU(depthwise 3×3 convolution of the first half of x) × the second half.

    Parameters
    ----------
    x : Tensor [B, N, 2·hidden]
        Tokens; channels [0, hidden) are convolved (zero padding 1), the rest multiply.
    weight : Tensor [hidden, 1, 3, 3]
        As ``torch.nn.Conv2d(hidden, hidden, 3, groups=hidden)`` has it.
    bias : Tensor [hidden], optional
    grid : (int, int)
        (H, W) with H·W = N.
    x_bias : Tensor [2·hidden], optional
        Added to x first: the bias of the Linear that x comes from, which then needs none. Its
        gradient, the sum of x's over all tokens, costs no pass of its own over the tokens here.
    backend : str, optional
        Overrides the backend in force for this call.

    Returns
    -------
    Tensor [B, N, hidden]
        In x's dtype (autocast's, where that is active). The GELU is the exact (erf) one.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, device or shape, or x an odd number of channels; the
        message names it.
    BackendError
        The backend asked for by name cannot run the call.
    """
    (x,) = autocast_activations(x)
    grid = check_grid("grid", grid)
    _, _, channels = check_tokens("x", x, "[B, N, 2*hidden]", grid)
    if channels % 2 or channels == 0:
        raise ValueError(f"x: got {channels} channels, needs an even number, 2*hidden")
    hidden = channels // 2
    weight, bias, x_bias = _check(x, weight, bias, x_bias, hidden=hidden)
    return run("conv_glu", x, (x, weight, bias, x_bias, grid), backend)
