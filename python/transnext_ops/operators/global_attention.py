"""Length-scaled cosine attention over all tokens: TransNeXt's last stage.

Source: TransNeXt paper (arXiv 2311.17132), section 3.1.3 (length-scaled cosine attention),
with every position a key.
"""

from __future__ import annotations

from torch import Tensor

from transnext_ops.cupy_arrays import accepts_cupy
from transnext_ops.dispatch.autocast import autocast_activations
from transnext_ops.dispatch.run import run
from transnext_ops.operators.checks import Grid, check_grid, check_tokens, tensor_checks
from transnext_ops.operators.position_bias.table import PositionBias, bias_arguments
from transnext_ops.schema import AGGREGATED_ATTENTION

_check = tensor_checks(AGGREGATED_ATTENTION, "q", ("k", "v", "scale", "query_embedding"))


@accepts_cupy
def global_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: Grid,
    scale: Tensor,
    query_embedding: Tensor | None = None,
    bias: Tensor | PositionBias | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""Attend to every position of the grid.

    .. math::
        out_n = \mathrm{softmax}_m\big((\hat q_n + \mathrm{query\_embedding}) \cdot \mathrm{scale}
                \cdot \log N \cdot \hat k_m + \mathrm{bias}_{n,m}\big)\, v_m,
        \qquad \hat x = x / \max(\|x\|, 10^{-12})

    Parameters
    ----------
    q, k, v : Tensor [B, N, h, d]
        Un-normalised projections, token-major, of any strides.
    grid : (int, int)
        (H, W) with H·W = N.
    scale : Tensor [h]
        Factor per head, softplus(temperature) in TransNeXt; log N comes on top.
    query_embedding : Tensor [h, d], optional
    bias : PositionBias or Tensor [h, N, N], optional
    backend : str, optional
        Overrides the backend in force for this call.

    Returns
    -------
    Tensor [B, N, h, d]
        In q's dtype (autocast's, where that is active), contiguous. Arithmetic is as in
        :func:`~transnext_ops.aggregated_attention`.

    Raises
    ------
    TypeError, ValueError
        A tensor has the wrong type, dtype, device or shape, or there are not as many tokens as
        `grid` has cells; the message names it.
    BackendError
        The backend asked for by name cannot run the call.
    """
    q, k, v = autocast_activations(q, k, v)
    grid = check_grid("grid", grid)
    batch, length, heads, head_dim = check_tokens("q", q, "[B, N, h, d]", grid)
    k, v, scale, query_embedding = _check(
        q, k, v, scale, query_embedding, B=batch, N=length, h=heads, d=head_dim
    )
    # Aggregated attention with an empty window whose pooled features are the features themselves:
    # then s(n) = log(0 + N) and one kernel serves both.
    arguments = (
        q, None, None, k, v, scale, query_embedding, None,
        *bias_arguments("bias", bias, heads, grid, grid, q),
        None, None, grid, grid, 0,
    )  # fmt: skip
    return run("aggregated_attention", q, arguments, backend, head_dim=head_dim, window_size=0)
