"""Plain PyTorch: every device, differentiable twice, exportable, inlined by ``torch.compile``.

These are the operators as PyTorch users would write them, without one N×P index and without unfold:
window cells are views of a padded map, pooling is two small GEMMs. They compute in the
parameters' dtype (float32 at least) and return the activations' dtype. Being differentiable, they
need no backward functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from transnext_ops.backends.availability import unavailable as unavailable
from transnext_ops.backends.availability import unsupported as unsupported
from transnext_ops.grid_constants import length_scale, pooling_matrix, window_mask
from transnext_ops.schema import AGGREGATED_ATTENTION, compute_dtype
from transnext_ops.tracing import known_true, reshaped, traced

_AttentionArguments = AGGREGATED_ATTENTION.Arguments


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a @ b`` for [B, h, n, k] and [B, h, k, m]: batched, and nothing asked of the sizes.

    ``matmul`` asks which of its ways is best, and so binds a traced graph of open sizes to some.
    """
    batch, heads = a.shape[:2]
    left, right = (reshaped(x, batch * heads, *x.shape[2:]) for x in (a, b))
    return reshaped(torch.bmm(left, right), batch, heads, a.shape[2], b.shape[3])


def _normalize(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1, eps=1e-12)


def _window_slices(x: Tensor, grid: tuple[int, int], window_size: int) -> list[Tensor]:
    """Return, for each window cell j, the [B, H, W, h, d] views of x at n + offset_j, 0 outside."""
    height, width = grid
    before = window_size // 2
    after = window_size - 1 - before
    image = F.pad(x.unflatten(1, (height, width)), (0, 0, 0, 0, before, after, before, after))
    rows = [image[:, dy : dy + height] for dy in range(window_size)]
    return [row[:, :, dx : dx + width] for row in rows for dx in range(window_size)]


def _window_products(q: Tensor, k: Tensor, grid: tuple[int, int], window_size: int) -> Tensor:
    """Return the products of queries with the keys of their windows: [B, N, h, d] to [B, N, h, L].

    Keys outside the image count as 0.
    """
    queries = q.unflatten(1, grid)
    cells = [(queries * cell).sum(-1) for cell in _window_slices(k, grid, window_size)]
    return torch.stack(cells, dim=-1).flatten(1, 2)


def _window_sum(weights: Tensor, v: Tensor, grid: tuple[int, int], window_size: int) -> Tensor:
    """Return the sum of values by the weights of their windows, [B, N, h, L] and [B, N, h, d]."""
    columns = weights.unflatten(1, grid)[..., None].unbind(-2)
    cells = _window_slices(v, grid, window_size)
    out = columns[0] * cells[0]
    for column, cell in zip(columns[1:], cells[1:], strict=True):
        out = out + column * cell
    return out.flatten(1, 2)


def dense_position_bias(
    table: Tensor, row_map: Tensor, col_map: Tensor, col_weights: Tensor | None
) -> Tensor:
    """Expand a table [h, R, S] with axis maps to bias[h, n, m], [h, N, P]."""
    heads = table.shape[0]
    height, pool_height = row_map.shape
    width, pool_width, taps = col_map.shape
    if traced():  # nothing is split, so nothing is asked of open sizes; ONNX wants int64 indices
        rows = table.permute(1, 2, 0)[row_map.long()]  # [H, Hp, S, h]
        cells = rows.permute(2, 0, 1, 3)[col_map.long()]  # [W, Wp, taps, H, Hp, h]
        cells = cells.permute(5, 3, 4, 0, 1, 2).contiguous()
    else:  # the gradient is faster, and deterministic in deterministic mode
        cells = table.index_select(1, row_map.flatten()).index_select(2, col_map.flatten())
        cells = cells.reshape(heads, height, pool_height, width, pool_width, taps)
    cells = cells[..., 0] if col_weights is None else (cells * col_weights).sum(-1)
    cells = cells.transpose(2, 3)
    return reshaped(cells, heads, height * width, pool_height * pool_width)


def aggregated_attention(*arguments: Any) -> Tensor:
    """Return aggregated attention ``[B, N, h, d]``."""
    return _attend(*arguments)[0]


def aggregated_attention_and_sums(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Return aggregated attention and the logarithm of each softmax's sum, ``[B, N, h]``."""
    out, logits = _attend(*arguments)
    return out, logits.logsumexp(-1).transpose(1, 2)


def _attend(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Return aggregated attention, and its logits ``[B, h, N, L + P]``."""
    call = _AttentionArguments(*arguments)
    q, k, v, scale, pool_bias = call.q, call.k, call.v, call.scale, call.pool_bias
    grid, pool_grid, window_size = call.grid, call.pool_grid, call.window_size
    dtype, compute = q.dtype, scale.dtype
    pool_length = pool_grid[0] * pool_grid[1]
    qn = _normalize(q.to(compute))  # [B, N, h, d]
    scaled = qn if call.query_embedding is None else qn + call.query_embedding
    lengths = length_scale(grid, window_size, pool_length, compute, q.device)  # [N]
    scaled = scaled * (lengths[:, None] * scale)[:, :, None]

    kpn = _normalize(call.k_pool.to(compute))
    pooled = _products(scaled.transpose(1, 2), kpn.permute(0, 2, 3, 1))  # [B, h, N, P]
    if pool_bias is not None:
        if call.row_map is not None:
            pool_bias = dense_position_bias(pool_bias, call.row_map, call.col_map, call.col_weights)
        pooled = pooled + pool_bias

    local_length = window_size * window_size
    if k is None or v is None or local_length == 0:
        out = _products(pooled.softmax(-1), call.v_pool.to(compute).transpose(1, 2))
        return out.transpose(1, 2).to(dtype), pooled

    local = _window_products(scaled, _normalize(k.to(compute)), grid, window_size)  # [B, N, h, L]
    if call.local_bias is not None:
        local = local + call.local_bias
    outside = ~window_mask(grid, window_size, q.device)  # [N, L]
    local = local.masked_fill(outside[:, None], float("-inf")).transpose(1, 2)

    logits = torch.cat((local, pooled), dim=-1)
    weights = logits.softmax(-1)
    window_weights, pool_weights = weights.split((local_length, pool_length), dim=-1)
    window_weights = window_weights.transpose(1, 2)  # [B, N, h, L]
    if call.tokens is not None:
        window_weights = window_weights + (qn[..., None, :] @ call.tokens)[..., 0, :]
    if call.token_bias is not None:
        window_weights = window_weights + call.token_bias
    out = _products(pool_weights, call.v_pool.to(compute).transpose(1, 2)).transpose(1, 2)
    out = out + _window_sum(window_weights, v.to(compute), grid, window_size)
    return out.to(dtype), logits


def window_qk(
    q: Tensor, k: Tensor, bias: Tensor | None, grid: tuple[int, int], window_size: int
) -> Tensor:
    """Return the window logits ``[B, h, N, L]``, -inf outside the image."""
    compute = compute_dtype(q.dtype)
    q_tokens, k_tokens = q.to(compute).transpose(1, 2), k.to(compute).transpose(1, 2)
    attn = _window_products(q_tokens, k_tokens, grid, window_size)  # [B, N, h, L]
    if bias is not None:
        attn = attn + bias
    outside = ~window_mask(grid, window_size, q.device)
    return attn.masked_fill(outside[:, None], float("-inf")).transpose(1, 2).to(q.dtype)


def window_av(attn: Tensor, v: Tensor, grid: tuple[int, int], window_size: int) -> Tensor:
    """Return the weighted sum of the window's values, ``[B, h, N, d]``."""
    compute = compute_dtype(v.dtype)
    outside = ~window_mask(grid, window_size, v.device)
    weights = attn.to(compute).masked_fill(outside, 0.0)  # whatever stands there, its value is 0
    v_tokens = v.to(compute).transpose(1, 2)
    out = _window_sum(weights.transpose(1, 2), v_tokens, grid, window_size)
    return out.transpose(1, 2).to(v.dtype)


def position_bias_table(
    row_coords: Tensor,
    col_coords: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
) -> Tensor:
    """Return the position-bias table ``[h, R, S]``."""
    # fc1 of a product set of coordinates is a sum of one row term and one column term.
    row_term = row_coords[:, None] * fc1_weight[:, 0] + fc1_bias  # [R, E]
    col_term = col_coords[:, None] * fc1_weight[:, 1]  # [S, E]
    hidden = F.relu(row_term[:, None] + col_term)  # [R, S, E]
    with torch.autocast(fc2_weight.device.type, enabled=False):  # a table is float32 at least
        return F.linear(hidden, fc2_weight, fc2_bias).permute(2, 0, 1)


def conv_glu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    x_bias: Tensor | None,
    grid: tuple[int, int],
) -> Tensor:
    """Return GELU(dwconv(a)) ⊙ g for ``x + x_bias = [a, g]``, ``[B, N, hidden]``."""
    biased = x.to(weight.dtype)
    if x_bias is not None:
        biased = biased + x_bias
    values, gate = biased.chunk(2, dim=-1)
    image = values.transpose(1, 2).unflatten(2, grid)  # [B, hidden, H, W], channels last in memory
    image = F.conv2d(image, weight, bias, padding=1, groups=weight.shape[0])
    return (F.gelu(image.flatten(2).transpose(1, 2)) * gate).to(x.dtype)


def _average(x: Tensor, size: int, bins: int) -> Tensor:
    """Average the bins of adaptive pooling on axis 1: [n, size, m] to [n, bins, m]."""
    if known_true(size % bins == 0):
        return x.unflatten(1, (bins, size // bins)).mean(2)
    # A matrix product rather than adaptive_avg_pool2d, whose CUDA backward is not deterministic and
    # which does not export here. It multiplies what is outside a bin by 0: a NaN there spreads.
    return torch.bmm(pooling_matrix(size, bins, x.dtype, x.device).expand(x.shape[0], -1, -1), x)


def gelu_pool(x: Tensor, grid: tuple[int, int], pool_grid: tuple[int, int]) -> Tensor:
    """Return the adaptive average pooling of GELU(x), ``[B, P, C]``."""
    (height, width), (pool_height, pool_width) = grid, pool_grid
    batch, _, channels = x.shape
    lines = F.gelu(x.to(compute_dtype(x.dtype)))
    lines = _average(reshaped(lines, batch, height, width * channels), height, pool_height)
    lines = reshaped(lines, batch * pool_height, width, channels)
    pooled = _average(lines, width, pool_width)  # [B·Hp, Wp, C]
    return reshaped(pooled, batch, pool_height * pool_width, channels).to(x.dtype)


def add_layer_norm(
    branch: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    branch_scale: Tensor | None,
    branch_bias: Tensor | None,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """Return LayerNorm(x + branch) in branch's dtype, and x + branch in x's."""
    added = branch.to(x.dtype)
    if branch_bias is not None:
        added = added + branch_bias
    if branch_scale is not None:
        added = added * branch_scale[:, None, None]
    total = x + added
    return F.layer_norm(total, weight.shape, weight, bias, epsilon).to(branch.dtype), total


def deformable_attention(
    value: Tensor, offsets: Tensor, logits: Tensor, reference: Tensor, shapes: Sequence[int]
) -> Tensor:
    """Return each head's values at its samples' places, summed by weight, ``[B, N, h, d]``."""
    levels = list(zip(shapes[::2], shapes[1::2], strict=True))
    points = logits.shape[-1] // len(levels)
    batch, _, heads, channels = value.shape
    compute = reference.dtype
    places = _places(offsets.to(compute).unflatten(3, (len(levels), points)), reference, levels)
    places = (2 * places - 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 1)  # [B · h, levels, N, P, 2]
    weights = logits.to(compute).softmax(-1).unflatten(-1, (len(levels), points))
    weights = weights.permute(0, 2, 3, 1, 4).flatten(0, 1)
    total = None
    start = 0
    for level, (rows, columns) in enumerate(levels):
        maps = value[:, start : start + rows * columns].permute(0, 2, 3, 1).to(compute)
        maps = maps.reshape(batch * heads, channels, rows, columns)
        start += rows * columns
        samples = F.grid_sample(maps, places[:, level], align_corners=False)  # [B · h, d, N, P]
        part = (samples * weights[:, level, None]).sum(-1)
        total = part if total is None else total + part
    assert total is not None
    return total.unflatten(0, (batch, heads)).permute(0, 3, 1, 2).to(value.dtype)


def _places(offsets: Tensor, reference: Tensor, levels: Sequence[tuple[int, int]]) -> Tensor:
    """Return places ``[B, N, h, levels, P, 2]``, (x, y) in units of each level's sides."""
    near = reference[:, :, None, :, None]
    if reference.shape[-1] == 2:
        sides = offsets.new_tensor([(columns, rows) for rows, columns in levels])
        return near + offsets / sides[:, None]
    return near[..., :2] + offsets / offsets.shape[-2] * (near[..., 2:] * 0.5)
