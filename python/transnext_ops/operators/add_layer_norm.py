"""A residual sum and the LayerNorm that follows it, in one pass over the tokens."""

from __future__ import annotations

from torch import Tensor

from transnext_ops import schema
from transnext_ops.cupy_arrays import accepts_cupy
from transnext_ops.dispatch.autocast import autocast_activations
from transnext_ops.dispatch.run import run_all
from transnext_ops.operators.checks import check_activation, tensor_checks

_check = tensor_checks(
    schema.ADD_LAYER_NORM, "branch", ("x", "weight", "bias", "branch_scale", "branch_bias")
)  # fmt: skip


@accepts_cupy
def add_layer_norm(
    x: Tensor,
    branch: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    epsilon: float = 1e-5,
    branch_scale: Tensor | None = None,
    branch_bias: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Add a residual branch, and normalise the sum for the next branch.

    .. math::
        total &= x + branch\_scale \cdot (branch + branch\_bias) \\
        normed &= \mathrm{LayerNorm}(total) \cdot weight + bias

    Networks normalise tokens right after they have added to them. Apart, the sum, the norm and the
    cast of its result read and write the tokens three times.

    Parameters
    ----------
    x : Tensor [B, N, C]
        The residual stream, kept in float32 (float64 beside a float64 `branch`) so that many small
        branches add up exactly; another type is converted.
    branch : Tensor [B, N, C]
        What is added, of any strides; its dtype (autocast's, where that is active) is the result's.
    weight, bias : Tensor [C]
        Of the LayerNorm.
    epsilon : float
        Added to the variance.
    branch_scale : Tensor [B], optional
        A factor for each sample, of stochastic depth say; it gets no gradient.
    branch_bias : Tensor [C], optional
        The bias of the Linear that the branch comes from, which then needs none. Its gradient, the
        sum of the branch's over all tokens, costs no pass of its own over the tokens here.
    backend : str, optional
        Overrides the backend in force for this call.

    Returns
    -------
    total : Tensor [B, N, C]
        In x's type.
    normed : Tensor [B, N, C]
        In branch's dtype; sums and statistics are in float32 at least.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, dtype, device or shape; the message names it.
    BackendError
        The backend asked for by name cannot run the call.
    """
    (branch,) = autocast_activations(branch)
    batch, tokens, channels = check_activation("branch", branch, "[B, N, C]").shape
    if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not epsilon >= 0:
        raise ValueError(f"epsilon: got {epsilon!r}, needs a number of at least 0")
    x, weight, bias, branch_scale, branch_bias = _check(
        branch, x, weight, bias, branch_scale, branch_bias, B=batch, N=tokens, C=channels
    )
    arguments = (branch, x, weight, bias, branch_scale, branch_bias, float(epsilon))
    normed, total = run_all("add_layer_norm", branch, arguments, backend)
    return total, normed
