"""The custom operators ``torch.ops.transnext.*``: schema, fake, autograd and autocast, once.

Every operator takes the name of a kernel backend as its last argument and calls that backend's
module, on any device. What a graph holds is therefore one node per operator, whichever backend
runs it. The backward is an operator too (``<name>_backward``): it gets a mask of the gradients
asked for and returns only those, in argument order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from transnext_ops.backends.registry import KERNEL_BACKENDS, backend_module
from transnext_ops.dispatch import eager
from transnext_ops.dispatch.autocast import autocast_activations

_ATTENTION_TENSORS = (
    "Tensor q, Tensor? k, Tensor? v, Tensor k_pool, Tensor v_pool, Tensor scale, "
    "Tensor? query_embedding, Tensor? local_bias, Tensor? pool_bias, Tensor? row_map, "
    "Tensor? col_map, Tensor? col_weights, Tensor? tokens, Tensor? token_bias"
)
_ATTENTION_SIZES = "SymInt[2] grid, SymInt[2] pool_grid, int window_size"
_MLP = "Tensor fc1_weight, Tensor fc1_bias, Tensor fc2_weight, Tensor fc2_bias"
_COORDS = "Tensor row_coords, Tensor col_coords"

_SCHEMAS = {
    "aggregated_attention": f"({_ATTENTION_TENSORS}, {_ATTENTION_SIZES}, str backend)"
    " -> (Tensor, Tensor)",
    "aggregated_attention_backward": f"(Tensor d_out, Tensor out, Tensor log_sum_exp, "
    f"{_ATTENTION_TENSORS}, {_ATTENTION_SIZES}, bool[11] needs, str backend) -> Tensor[]",
    "window_qk": "(Tensor q, Tensor k, Tensor? bias, SymInt[2] grid, int window_size, str backend)"
    " -> Tensor",
    "window_qk_backward": "(Tensor d_attn, Tensor q, Tensor k, SymInt[2] grid, int window_size, "
    "bool[3] needs, str backend) -> Tensor[]",
    "window_av": "(Tensor attn, Tensor v, SymInt[2] grid, int window_size, str backend) -> Tensor",
    "window_av_backward": "(Tensor d_out, Tensor attn, Tensor v, SymInt[2] grid, int window_size, "
    "bool[2] needs, str backend) -> Tensor[]",
    "position_bias_table": f"({_COORDS}, {_MLP}, str backend) -> Tensor",
    "position_bias_table_backward": f"(Tensor d_table, {_COORDS}, {_MLP}, bool[4] needs, "
    "str backend) -> Tensor[]",
    "conv_glu": "(Tensor x, Tensor weight, Tensor? bias, SymInt[2] grid, str backend) -> Tensor",
    "conv_glu_backward": "(Tensor d_out, Tensor x, Tensor weight, Tensor? bias, SymInt[2] grid, "
    "bool[3] needs, str backend) -> Tensor[]",
    "gelu_pool": "(Tensor x, SymInt[2] grid, SymInt[2] pool_grid, str backend) -> Tensor",
    "gelu_pool_backward": "(Tensor d_out, Tensor x, SymInt[2] grid, SymInt[2] pool_grid, "
    "str backend) -> Tensor",
}

# Whole residual branches: inference on packed weights, no gradient (transnext_ops.fused_blocks).
_BRANCH_SCHEMAS = {
    "attention_residual": "(Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor projections, "
    "Tensor? projections_bias, Tensor? pool_norm_weight, Tensor? pool_norm_bias, "
    "Tensor? pool_projections, Tensor scale, Tensor? query_embedding, Tensor? local_bias, "
    "Tensor? pool_bias, Tensor? row_map, Tensor? col_map, Tensor? col_weights, Tensor? tokens, "
    "Tensor? token_bias, Tensor out_projection, Tensor? out_bias, SymInt[2] grid, "
    "SymInt[2] pool_grid, int window_size, int heads, float epsilon, float pool_epsilon, "
    "ScalarType features, str backend) -> Tensor",
    "conv_glu_residual": "(Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor value_weight, "
    "Tensor gate_weight, Tensor? fc1_bias, Tensor conv_weight, Tensor? conv_bias, "
    "Tensor fc2_weight, Tensor? fc2_bias, SymInt[2] grid, float epsilon, str backend) -> Tensor",
    "patch_embed": "(Tensor x, Tensor weight, Tensor? bias, Tensor norm_weight, Tensor norm_bias, "
    "SymInt[2] grid, int columns, int kernel, int stride, bool channels_last, float epsilon, "
    "str backend) -> Tensor",
}

_library = torch.library.Library("transnext", "DEF")


def _kernel_runner(op: str) -> Callable[..., Any]:
    """Return the implementation of an operator: the named backend's function of the same name."""

    modules: dict[str, Any] = {}  # of the backends used so far

    def run_kernel(*arguments: Any) -> Any:
        backend = arguments[-1]
        module = modules.get(backend)
        if module is None:
            if backend not in KERNEL_BACKENDS:
                raise ValueError(
                    f"backend: got {backend!r}, torch.ops.transnext.{op} needs one of "
                    f"{KERNEL_BACKENDS}"
                )
            module = modules[backend] = backend_module(backend)
        result = getattr(module, op)(*arguments[:-1])
        if isinstance(result, list):  # gradients: None marks those not asked for
            return [gradient for gradient in result if gradient is not None]
        return result

    return run_kernel


for _name, _schema in {**_SCHEMAS, **_BRANCH_SCHEMAS}.items():
    _library.define(_name + _schema, tags=(torch.Tag.pt2_compliant_tag,))
    _kernel = _kernel_runner(_name)
    _library.impl(_name, _kernel, "CompositeExplicitAutograd")
    eager.register_kernel(_name, _kernel)


# Fake versions: shapes and dtypes of the outputs, all contiguous --------------------------------


def _fake_gradients(inputs: Sequence[Tensor | None], needs: Sequence[bool]) -> list[Tensor]:
    return [
        tensor.new_empty(tensor.shape)
        for tensor, needed in zip(inputs, needs, strict=True)
        if needed and tensor is not None
    ]


def _register_fake(op: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return torch.library.register_fake(f"transnext::{op}", lib=_library)


@_register_fake("aggregated_attention")
def _(q, *arguments):
    scale = arguments[4]
    return q.new_empty(q.shape), scale.new_empty(q.shape[:3])


@_register_fake("aggregated_attention_backward")
def _(d_out, out, log_sum_exp, *arguments):
    tensors, needs = arguments[:14], arguments[-2]
    return _fake_gradients(_differentiable_attention_inputs(tensors), needs)


@_register_fake("window_qk")
def _(q, k, bias, grid, window_size, backend):
    return q.new_empty((*q.shape[:3], window_size * window_size))


@_register_fake("window_qk_backward")
def _(d_attn, q, k, grid, window_size, needs, backend):
    compute = torch.float64 if q.dtype == torch.float64 else torch.float32
    bias = q.new_empty((q.shape[1], window_size * window_size), dtype=compute)
    return _fake_gradients((q, k, bias), needs)


@_register_fake("window_av")
def _(attn, v, grid, window_size, backend):
    return v.new_empty(v.shape)


@_register_fake("window_av_backward")
def _(d_out, attn, v, grid, window_size, needs, backend):
    return _fake_gradients((attn, v), needs)


@_register_fake("position_bias_table")
def _(row_coords, col_coords, fc1_weight, fc1_bias, fc2_weight, fc2_bias, backend):
    return fc1_weight.new_empty((fc2_weight.shape[0], row_coords.shape[0], col_coords.shape[0]))


@_register_fake("position_bias_table_backward")
def _(d_table, row_coords, col_coords, fc1_weight, fc1_bias, fc2_weight, fc2_bias, needs, backend):
    return _fake_gradients((fc1_weight, fc1_bias, fc2_weight, fc2_bias), needs)


@_register_fake("conv_glu")
def _(x, weight, bias, grid, backend):
    return x.new_empty((x.shape[0], x.shape[1], weight.shape[0]))


@_register_fake("conv_glu_backward")
def _(d_out, x, weight, bias, grid, needs, backend):
    return _fake_gradients((x, weight, bias), needs)


@_register_fake("gelu_pool")
def _(x, grid, pool_grid, backend):
    return x.new_empty((x.shape[0], pool_grid[0] * pool_grid[1], x.shape[2]))


@_register_fake("gelu_pool_backward")
def _(d_out, x, grid, pool_grid, backend):
    return x.new_empty(x.shape)


@_register_fake("attention_residual")
def _(x, *arguments):
    return x.new_empty(x.shape)


@_register_fake("conv_glu_residual")
def _(x, *arguments):
    return x.new_empty(x.shape)


@_register_fake("patch_embed")
def _(x, weight, bias, norm_weight, norm_bias, grid, columns, *arguments):
    return x.new_empty((x.shape[0], grid[0] * grid[1], columns))


# Autograd ---------------------------------------------------------------------------------------


def _differentiable_attention_inputs(tensors: Sequence[Any]) -> tuple[Any, ...]:
    """Leave out the axis maps and their weights (positions 9 to 11 of the attention's tensors)."""
    return (*tensors[:9], *tensors[12:14])


def _spread(gradients: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    """Put the gradients asked for back in their places, None in the others."""
    remaining = iter(gradients)
    return [next(remaining) if needed else None for needed in needs]


def _register_autograd(
    op: str,
    setup_context: Callable[..., None],
    backward: Callable[..., tuple[Any, ...]],
) -> None:
    torch.library.register_autograd(
        f"transnext::{op}", backward, setup_context=setup_context, lib=_library
    )


def _attention_setup(ctx, inputs, output):
    *tensors, ctx.grid, ctx.pool_grid, ctx.window_size, ctx.backend = inputs
    out, log_sum_exp = output
    ctx.mark_non_differentiable(log_sum_exp)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(out, log_sum_exp, *tensors)


def _attention_backward(ctx, d_out, d_log_sum_exp):
    if d_out is None:
        return (None,) * 18
    out, log_sum_exp, *tensors = ctx.saved_tensors
    needs = list(_differentiable_attention_inputs(ctx.needs_input_grad[:14]))
    gradients = eager.call(
        "aggregated_attention_backward", d_out, out, log_sum_exp, *tensors,
        ctx.grid, ctx.pool_grid, ctx.window_size, needs, ctx.backend,
    )  # fmt: skip
    spread = _spread(gradients, needs)
    return (*spread[:9], None, None, None, *spread[9:], None, None, None, None)


def _window_qk_setup(ctx, inputs, output):
    q, k, _bias, ctx.grid, ctx.window_size, ctx.backend = inputs
    ctx.save_for_backward(q, k)


def _window_qk_backward(ctx, d_attn):
    needs = list(ctx.needs_input_grad[:3])
    gradients = eager.call(
        "window_qk_backward", d_attn, *ctx.saved_tensors,
        ctx.grid, ctx.window_size, needs, ctx.backend,
    )  # fmt: skip
    return (*_spread(gradients, needs), None, None, None)


def _window_av_setup(ctx, inputs, output):
    attn, v, ctx.grid, ctx.window_size, ctx.backend = inputs
    ctx.save_for_backward(attn, v)


def _window_av_backward(ctx, d_out):
    needs = list(ctx.needs_input_grad[:2])
    gradients = eager.call(
        "window_av_backward", d_out, *ctx.saved_tensors,
        ctx.grid, ctx.window_size, needs, ctx.backend,
    )  # fmt: skip
    return (*_spread(gradients, needs), None, None, None)


def _table_setup(ctx, inputs, output):
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _table_backward(ctx, d_table):
    needs = list(ctx.needs_input_grad[2:6])
    gradients = eager.call(
        "position_bias_table_backward", d_table, *ctx.saved_tensors, needs, ctx.backend
    )
    return (None, None, *_spread(gradients, needs), None)


def _conv_glu_setup(ctx, inputs, output):
    x, weight, bias, ctx.grid, ctx.backend = inputs
    ctx.save_for_backward(x, weight, bias)


def _conv_glu_backward(ctx, d_out):
    needs = list(ctx.needs_input_grad[:3])
    gradients = eager.call(
        "conv_glu_backward", d_out, *ctx.saved_tensors, ctx.grid, needs, ctx.backend
    )
    return (*_spread(gradients, needs), None, None)


def _gelu_pool_setup(ctx, inputs, output):
    x, ctx.grid, ctx.pool_grid, ctx.backend = inputs
    ctx.save_for_backward(x)


def _gelu_pool_backward(ctx, d_out):
    (x,) = ctx.saved_tensors
    d_x = eager.call("gelu_pool_backward", d_out, x, ctx.grid, ctx.pool_grid, ctx.backend)
    return d_x, None, None, None


for _name, _setup, _backward in (
    ("aggregated_attention", _attention_setup, _attention_backward),
    ("window_qk", _window_qk_setup, _window_qk_backward),
    ("window_av", _window_av_setup, _window_av_backward),
    ("position_bias_table", _table_setup, _table_backward),
    ("conv_glu", _conv_glu_setup, _conv_glu_backward),
    ("gelu_pool", _gelu_pool_setup, _gelu_pool_backward),
):
    _register_autograd(_name, _setup, _backward)
    eager.register_autograd(_name, _setup, _backward)


def _refuse_double_backward(ctx, *gradients):
    raise NotImplementedError(
        f"transnext_ops backend {ctx.backend!r} has no second derivatives; use backend 'torch', "
        "which is differentiable twice"
    )


def _remember_backend(ctx, inputs, output):
    ctx.backend = inputs[-1]


for _name in _SCHEMAS:
    if _name.endswith("_backward"):
        _register_autograd(_name, _remember_backend, _refuse_double_backward)


def _refuse_backward(ctx, *gradients):
    raise NotImplementedError(
        "transnext_ops.fused_blocks are for inference and have no gradient; compose the block from "
        "the operators to train, or call it under torch.no_grad()"
    )


for _name in _BRANCH_SCHEMAS:
    _register_autograd(_name, _remember_backend, _refuse_backward)


# Autocast: activations in the autocast type, parameters as they are -----------------------------

_ACTIVATION_COUNTS = {
    "aggregated_attention": 5,
    "window_qk": 2,
    "window_av": 2,
    "conv_glu": 1,
    "gelu_pool": 1,
}


def _autocast_kernel(op: str, device_type: str, activations: int) -> Callable[..., Any]:
    def cast_and_call(*arguments: Any) -> Any:
        cast = autocast_activations(*arguments[:activations])
        with torch.autocast(device_type, enabled=False):
            return getattr(torch.ops.transnext, op)(*cast, *arguments[activations:])

    return cast_and_call


for _name, _count in _ACTIVATION_COUNTS.items():
    for _device_type, _key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
        _library.impl(_name, _autocast_kernel(_name, _device_type, _count), _key)
