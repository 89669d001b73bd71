"""The NumPy float64 reference behind the operators' interface: slow, on any device, the oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transnext_ops.backends.availability import unavailable as unavailable
from transnext_ops.backends.availability import unsupported as unsupported
from transnext_ops.backends.dlpack import check_memory
from transnext_ops.schema import (
    AGGREGATED_ATTENTION,
    GELU_POOL,
    Operator,
    compute_dtype,
    in_places,
)


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


def _attention_arguments(call: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the reference's positional and named arguments for an attention's named ones."""
    import transnext_reference as reference

    dense_bias = _array(call.pool_bias)
    if call.pool_bias is not None and call.row_map is not None:
        dense_bias = reference.expand_position_bias(*_table(call))
    names = ("scale", "query_embedding", "local_bias", "tokens", "token_bias")
    keywords = {name: _array(getattr(call, name)) for name in names}
    return _arrays(call.q, call.k, call.v, call.k_pool, call.v_pool), {
        **keywords,
        "grid": tuple(call.grid),
        "pool_grid": tuple(call.pool_grid),
        "window_size": call.window_size,
        "pool_bias": dense_bias,
    }


def _table(call: Any) -> list[Any]:
    return _arrays(call.pool_bias, call.row_map, call.col_map, call.col_weights)


@_quietly
def aggregated_attention(*arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
    """Return aggregated attention ``[B, N, h, d]`` and its log-sum-exp ``[B, N, h]``."""
    import transnext_reference as reference

    call = AGGREGATED_ATTENTION.Arguments(*arguments, **named)
    positional, keywords = _attention_arguments(call)
    out, log_sum_exp = reference.aggregated_attention(*positional, **keywords)
    return _tensor(out, call.q), _tensor(log_sum_exp, call.scale)


@_quietly
def aggregated_attention_backward(*arguments: Any, **named: Any) -> list[Tensor | None]:
    """Return the gradients of :func:`aggregated_attention`."""
    import transnext_reference as reference

    call = AGGREGATED_ATTENTION.BackwardArguments(*arguments, **named)
    positional, keywords = _attention_arguments(call)
    gradients = reference.aggregated_attention_backward(_array(call.d_out), *positional, **keywords)
    if call.pool_bias is not None and call.row_map is not None:
        gradients["pool_bias"] = reference.expand_position_bias_backward(
            gradients["pool_bias"], *_table(call)
        )
    inputs = [AGGREGATED_ATTENTION.tensors[i].name for i in AGGREGATED_ATTENTION.differentiable]
    return _chosen(gradients, {name: getattr(call, name) for name in inputs}, call.needs)


@_quietly
def window_qk(q, k, bias, grid, window_size):
    """Return the window logits ``[B, h, N, L]``, -inf outside the image."""
    import transnext_reference as reference

    out = reference.window_qk(*_arrays(q, k, bias), grid=tuple(grid), window_size=window_size)
    return _tensor(out, q)


@_quietly
def window_qk_backward(d_attn, q, k, grid, window_size, needs):
    """Return the gradients of :func:`window_qk` for q, k and bias."""
    import transnext_reference as reference

    no_bias = np.broadcast_to(0.0, (q.shape[1], window_size**2))  # it enters no gradient
    inputs = (*_arrays(d_attn, q, k), no_bias)
    gradients = reference.window_qk_backward(*inputs, grid=tuple(grid), window_size=window_size)
    bias = q.new_empty(0, dtype=compute_dtype(q.dtype))
    return _chosen(gradients, {"q": q, "k": k, "bias": bias}, needs)


@_quietly
def window_av(attn, v, grid, window_size):
    """Return the weighted sum of the window's values, ``[B, h, N, d]``."""
    import transnext_reference as reference

    out = reference.window_av(*_arrays(attn, v), grid=tuple(grid), window_size=window_size)
    return _tensor(out, v)


@_quietly
def window_av_backward(d_out, attn, v, grid, window_size, needs):
    """Return the gradients of :func:`window_av` for attn and v."""
    import transnext_reference as reference

    gradients = reference.window_av_backward(
        *_arrays(d_out, attn, v), grid=tuple(grid), window_size=window_size
    )
    return _chosen(gradients, {"attn": attn, "v": v}, needs)


@_quietly
def position_bias_table(row_coords, col_coords, fc1_weight, fc1_bias, fc2_weight, fc2_bias):
    """Return the position-bias table ``[h, R, S]``."""
    import transnext_reference as reference

    inputs = (row_coords, col_coords, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    return _tensor(reference.position_bias_table(*_arrays(*inputs)), fc1_weight)


@_quietly
def position_bias_table_backward(
    d_table, row_coords, col_coords, fc1_weight, fc1_bias, fc2_weight, fc2_bias, needs
):
    """Return the gradients of :func:`position_bias_table` for the MLP."""
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
def conv_glu(x, weight, bias, x_bias, grid):
    """Return GELU(dwconv(a)) ⊙ g for ``x + x_bias = [a, g]``, ``[B, N, hidden]``."""
    import transnext_reference as reference

    return _tensor(reference.conv_glu(*_arrays(x, weight, bias, x_bias), grid=tuple(grid)), x)


@_quietly
def conv_glu_backward(d_out, x, weight, bias, x_bias, grid, needs):
    """Return the gradients of :func:`conv_glu` for x, weight, bias and x_bias."""
    import transnext_reference as reference

    inputs = {"x": x, "weight": weight, "bias": bias, "x_bias": x_bias}
    gradients = reference.conv_glu_backward(*_arrays(d_out, *inputs.values()), grid=tuple(grid))
    return _chosen(gradients, inputs, needs)


def _check_pool_grid(grid, pool_grid):
    # The reference would accept finer grids, however long they take.
    if pool_grid[0] > grid[0] or pool_grid[1] > grid[1]:
        raise ValueError(f"pool_grid: got {tuple(pool_grid)}, needs at most the grid {tuple(grid)}")


@_quietly
def gelu_pool(x, grid, pool_grid):
    """Return the adaptive average pooling of GELU(x), ``[B, P, C]``."""
    import transnext_reference as reference

    _check_pool_grid(grid, pool_grid)
    return _tensor(reference.gelu_pool(_array(x), grid=tuple(grid), pool_grid=tuple(pool_grid)), x)


@_quietly
def gelu_pool_backward(d_out, x, grid, pool_grid):
    """Return the gradient of :func:`gelu_pool` for x, ``[B, N, C]``."""
    import transnext_reference as reference

    _check_pool_grid(grid, pool_grid)
    gradients = reference.gelu_pool_backward(
        *_arrays(d_out, x), grid=tuple(grid), pool_grid=tuple(pool_grid)
    )
    return _tensor(gradients["x"], x)


@_quietly
def add_layer_norm(branch, x, weight, bias, branch_scale, branch_bias, epsilon):
    """Return LayerNorm(x + branch) and x + branch, both ``[B, N, C]``."""
    import transnext_reference as reference

    given = _arrays(x, branch, weight, bias, branch_scale, branch_bias)
    total, normed = reference.add_layer_norm(*given, epsilon=epsilon)
    return _tensor(normed, branch), _tensor(total, x)


@_quietly
def add_layer_norm_backward(d_normed, d_total, total, weight, branch_scale, epsilon, needs):
    """Return the gradients of :func:`add_layer_norm`, in the order of its record."""
    import transnext_reference as reference

    gradients = reference.add_layer_norm_backward(
        *_arrays(d_total, d_normed, total, weight, branch_scale), epsilon=epsilon
    )
    inputs = {"branch": d_normed, "x": total}
    inputs |= dict.fromkeys(("weight", "bias", "branch_bias"), weight)
    return _chosen(gradients, inputs, needs)


@_quietly
def deformable_attention(value, offsets, logits, reference, shapes):
    """Return each head's values at a query's places, summed by weight, ``[B, N, h, d]``."""
    import transnext_reference

    given = _arrays(value, offsets, logits, reference)
    return _tensor(transnext_reference.deformable_attention(*given, shapes=_pairs(shapes)), value)


@_quietly
def deformable_attention_backward(d_out, value, offsets, logits, reference, shapes, needs):
    """Return the gradients of :func:`deformable_attention` for its four tensors."""
    import transnext_reference

    gradients = transnext_reference.deformable_attention_backward(
        *_arrays(d_out, value, offsets, logits, reference), shapes=_pairs(shapes)
    )
    inputs = {"value": value, "offsets": offsets, "logits": logits, "reference": reference}
    return _chosen(gradients, inputs, needs)


def _pairs(shapes):
    return list(zip(shapes[::2], shapes[1::2], strict=True))


def _into(operator: Operator, backward: Callable[..., Any]) -> Callable[..., list[Tensor | None]]:
    """Return a backward that copies gradients into given tensors, and returns the others."""

    def backward_into(*arguments: Any) -> list[Tensor | None]:
        *inputs, placed, into = arguments
        rooms = in_places(into, placed)
        if operator.masked:
            inputs[-1] = [needed or there for needed, there in zip(inputs[-1], placed, strict=True)]
        gradients = backward(*inputs)
        found = list(gradients) if operator.masked else [gradients]
        for i, room in enumerate(rooms):
            if room is not None:
                room.copy_(found[i])
                found[i] = None
        return found

    return backward_into


aggregated_attention_backward_into = _into(AGGREGATED_ATTENTION, aggregated_attention_backward)
gelu_pool_backward_into = _into(GELU_POOL, gelu_pool_backward)
