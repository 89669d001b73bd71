"""The NumPy float64 reference behind the operators' interface: slow, on any device, the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transnext_ops.backends.dlpack import check_memory
from transnext_ops.backends.registry import ACTIVATION_DTYPES, Call


def unavailable() -> str | None:
    """Say why the reference cannot run: never, since it needs NumPy alone."""
    return None


def unsupported(call: Call) -> str | None:
    """Say why a call cannot run here."""
    if call.dtype not in ACTIVATION_DTYPES:
        return f"it has no {call.dtype}"
    return None


def _array(tensor: Tensor | None) -> Any:
    """Copy a tensor of any dtype and device to a NumPy array (float64 where it is floating)."""
    if tensor is None:
        return None
    if tensor.is_complex():
        raise TypeError(f"got a tensor of {tensor.dtype}, needs real numbers")
    check_memory(tensor)
    dtype = torch.float64 if tensor.is_floating_point() else tensor.dtype
    # copy_ reads whatever a tensor is: views that stand for the negative of their memory, too.
    return torch.empty(tensor.shape, dtype=dtype, device="cpu").copy_(tensor.detach()).numpy()


def _arrays(*tensors: Tensor | None) -> list[Any]:
    return [_array(tensor) for tensor in tensors]


def _tensor(array: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device=like.device, dtype=like.dtype)


def _chosen(
    gradients: dict[str, np.ndarray], inputs: dict[str, Tensor | None], needs: Sequence[bool]
) -> list[Tensor | None]:
    """Order the reference's gradients as `inputs`, as tensors of the inputs' dtypes."""
    return [
        _tensor(gradients[name], tensor) if needed and tensor is not None else None
        for (name, tensor), needed in zip(inputs.items(), needs, strict=True)
    ]


# NumPy warns of what PyTorch computes silently: infinities and NaN of non-finite inputs.
_quietly = np.errstate(all="ignore")


def _attention_arguments(
    q, k, v, k_pool, v_pool, scale, query_embedding, local_bias, pool_bias, row_map, col_map,
    col_weights, tokens, token_bias, grid, pool_grid, window_size,
):  # fmt: skip
    import transnext_reference as reference

    dense_bias = _array(pool_bias)
    if pool_bias is not None and row_map is not None:
        dense_bias = reference.expand_position_bias(
            *_arrays(pool_bias, row_map, col_map, col_weights)
        )
    positional = _arrays(q, k, v, k_pool, v_pool)
    keywords = {
        "grid": tuple(grid),
        "pool_grid": tuple(pool_grid),
        "window_size": window_size,
        "scale": _array(scale),
        "query_embedding": _array(query_embedding),
        "local_bias": _array(local_bias),
        "pool_bias": dense_bias,
        "tokens": _array(tokens),
        "token_bias": _array(token_bias),
    }
    return positional, keywords


@_quietly
def aggregated_attention(q: Tensor, *rest) -> tuple[Tensor, Tensor]:
    import transnext_reference as reference

    scale = rest[4]
    positional, keywords = _attention_arguments(q, *rest)
    out, log_sum_exp = reference.aggregated_attention(*positional, **keywords)
    return _tensor(out, q), _tensor(log_sum_exp, scale)


@_quietly
def aggregated_attention_backward(
    d_out, out, log_sum_exp, q, k, v, k_pool, v_pool, scale, query_embedding, local_bias, pool_bias,
    row_map, col_map, col_weights, tokens, token_bias, grid, pool_grid, window_size, needs,
):  # fmt: skip
    import transnext_reference as reference

    positional, keywords = _attention_arguments(
        q, k, v, k_pool, v_pool, scale, query_embedding, local_bias, pool_bias, row_map, col_map,
        col_weights, tokens, token_bias, grid, pool_grid, window_size,
    )  # fmt: skip
    gradients = reference.aggregated_attention_backward(_array(d_out), *positional, **keywords)
    if pool_bias is not None and row_map is not None:
        gradients["pool_bias"] = reference.expand_position_bias_backward(
            gradients["pool_bias"], *_arrays(pool_bias, row_map, col_map, col_weights)
        )
    inputs = {
        "q": q, "k": k, "v": v, "k_pool": k_pool, "v_pool": v_pool, "scale": scale,
        "query_embedding": query_embedding, "local_bias": local_bias, "pool_bias": pool_bias,
        "tokens": tokens, "token_bias": token_bias,
    }  # fmt: skip
    return _chosen(gradients, inputs, needs)


@_quietly
def window_qk(q, k, bias, grid, window_size):
    import transnext_reference as reference

    out = reference.window_qk(*_arrays(q, k, bias), grid=tuple(grid), window_size=window_size)
    return _tensor(out, q)


@_quietly
def window_qk_backward(d_attn, q, k, grid, window_size, needs):
    import transnext_reference as reference

    no_bias = np.broadcast_to(0.0, (q.shape[1], window_size**2))  # it enters no gradient
    inputs = (*_arrays(d_attn, q, k), no_bias)
    gradients = reference.window_qk_backward(*inputs, grid=tuple(grid), window_size=window_size)
    compute = torch.float64 if q.dtype == torch.float64 else torch.float32
    bias = q.new_empty(0, dtype=compute)
    return _chosen(gradients, {"q": q, "k": k, "bias": bias}, needs)


@_quietly
def window_av(attn, v, grid, window_size):
    import transnext_reference as reference

    out = reference.window_av(*_arrays(attn, v), grid=tuple(grid), window_size=window_size)
    return _tensor(out, v)


@_quietly
def window_av_backward(d_out, attn, v, grid, window_size, needs):
    import transnext_reference as reference

    gradients = reference.window_av_backward(
        *_arrays(d_out, attn, v), grid=tuple(grid), window_size=window_size
    )
    return _chosen(gradients, {"attn": attn, "v": v}, needs)


@_quietly
def position_bias_table(row_coords, col_coords, fc1_weight, fc1_bias, fc2_weight, fc2_bias):
    import transnext_reference as reference

    inputs = (row_coords, col_coords, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    return _tensor(reference.position_bias_table(*_arrays(*inputs)), fc1_weight)


@_quietly
def position_bias_table_backward(
    d_table, row_coords, col_coords, fc1_weight, fc1_bias, fc2_weight, fc2_bias, needs
):
    import transnext_reference as reference

    parameters = {
        "fc1_weight": fc1_weight,
        "fc1_bias": fc1_bias,
        "fc2_weight": fc2_weight,
        "fc2_bias": fc2_bias,
    }
    gradients = reference.position_bias_table_backward(
        *_arrays(d_table, row_coords, col_coords, *parameters.values())
    )
    return _chosen(gradients, parameters, needs)


@_quietly
def conv_glu(x, weight, bias, grid):
    import transnext_reference as reference

    return _tensor(reference.conv_glu(*_arrays(x, weight, bias), grid=tuple(grid)), x)


@_quietly
def conv_glu_backward(d_out, x, weight, bias, grid, needs):
    import transnext_reference as reference

    gradients = reference.conv_glu_backward(*_arrays(d_out, x, weight, bias), grid=tuple(grid))
    return _chosen(gradients, {"x": x, "weight": weight, "bias": bias}, needs)


def _check_pool_grid(grid, pool_grid):
    # The reference takes finer ones, and any time that they need.
    if pool_grid[0] > grid[0] or pool_grid[1] > grid[1]:
        raise ValueError(f"pool_grid: got {tuple(pool_grid)}, needs at most the grid {tuple(grid)}")


@_quietly
def gelu_pool(x, grid, pool_grid):
    import transnext_reference as reference

    _check_pool_grid(grid, pool_grid)
    return _tensor(reference.gelu_pool(_array(x), grid=tuple(grid), pool_grid=tuple(pool_grid)), x)


@_quietly
def gelu_pool_backward(d_out, x, grid, pool_grid):
    import transnext_reference as reference

    _check_pool_grid(grid, pool_grid)
    gradients = reference.gelu_pool_backward(
        *_arrays(d_out, x), grid=tuple(grid), pool_grid=tuple(pool_grid)
    )
    return _tensor(gradients["x"], x)
