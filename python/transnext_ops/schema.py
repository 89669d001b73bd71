"""The records of all operators: every tensor, size and output, declared once.

:mod:`transnext_ops.operator_record` says what follows from a record.
"""

from __future__ import annotations

import functools
import re

from transnext_ops.made_functions import compute_dtype, make_function
from transnext_ops.operator_record import (
    Operator,
    Output,
    Role,
    Size,
    TensorArgument,
    in_places,
)

__all__ = [
    "FUSED_BLOCKS",
    "OPERATORS",
    "Operator",
    "Output",
    "Role",
    "Size",
    "TensorArgument",
    "compute_dtype",
    "in_places",
    "make_function",
]


def _tensors(role: Role, names: str, shape: str, **properties: bool) -> tuple[TensorArgument, ...]:
    return tuple(
        TensorArgument(name, shape, role, **properties) for name in re.split(r"\W+", names)
    )


_activations = functools.partial(_tensors, Role.ACTIVATION)
_parameters = functools.partial(_tensors, Role.PARAMETER)
_maps = functools.partial(_tensors, Role.INDEX_MAP, optional=True, differentiable=False)
_packed = functools.partial(_tensors, Role.PACKED, differentiable=False)
_tokens = functools.partial(_tensors, Role.TOKENS, differentiable=False)

_GRID, _POOL_GRID = Size("grid", "grid"), Size("pool_grid", "grid")
_WINDOW = Size("window_size", "int")

_PARAMETERS_OF_ATTENTION = (
    *_parameters("scale", "h"),
    *_parameters("query_embedding", "h d", optional=True),
    *_parameters("local_bias", "h L", optional=True),
    # Dense, [h, N, P], or a table, [h, R, S], with maps from grid and pooled grid to it.
    *_parameters("pool_bias", "h * *", optional=True),
    *_maps("row_map", "H Hp"),
    *_maps("col_map", "W Wp taps"),
    *_parameters("col_weights", "W Wp taps", optional=True, differentiable=False),
    *_parameters("tokens", "h d L", optional=True),
    *_parameters("token_bias", "h L", optional=True),
)

AGGREGATED_ATTENTION = Operator(
    "aggregated_attention",
    (
        *_activations("q", "B N h d"),
        *_activations("k, v", "B N h d", optional=True),  # without a window there are none
        *_activations("k_pool, v_pool", "B P h d"),
        *_PARAMETERS_OF_ATTENTION,
    ),
    (_GRID, _POOL_GRID, _WINDOW),
    (
        Output("out", "B N h d", like="q", saved=True),
        Output("log_sum_exp", "B N h", like="scale", saved=True),
    ),
    writes_into=True,
    options=("allow_tf32",),
    backward_options=("deterministic",),
)

WINDOW_QK = Operator(
    "window_qk",
    (
        *_activations("q, k", "B h N d"),
        *_parameters("bias", "h L", optional=True, in_backward=False),
    ),
    (_GRID, _WINDOW),
    (Output("attn", "B h N L", like="q"),),
)

WINDOW_AV = Operator(
    "window_av",
    (*_activations("attn", "B h N L"), *_activations("v", "B h N d")),
    (_GRID, _WINDOW),
    (Output("out", "B h N d", like="v"),),
)

POSITION_BIAS_TABLE = Operator(
    "position_bias_table",
    (
        *_parameters("row_coords", "R", differentiable=False),
        *_parameters("col_coords", "S", differentiable=False),
        *_parameters("fc1_weight", "E 2"),
        *_parameters("fc1_bias", "E"),
        *_parameters("fc2_weight", "h E"),
        *_parameters("fc2_bias", "h"),
    ),
    (),
    (Output("table", "h R S", like="fc1_weight"),),
)

CONV_GLU = Operator(
    "conv_glu",
    (
        *_activations("x", "B N 2*hidden"),
        *_parameters("weight", "hidden 1 3 3"),
        *_parameters("bias", "hidden", optional=True),
        *_parameters("x_bias", "2*hidden", optional=True),
    ),
    (_GRID,),
    (Output("out", "B N hidden", like="x"),),
)

GELU_POOL = Operator(
    "gelu_pool",
    _activations("x", "B N C"),
    (_GRID, _POOL_GRID),
    (Output("out", "B P C", like="x"),),
    writes_into=True,
)

ADD_LAYER_NORM = Operator(
    "add_layer_norm",
    (
        *_activations("branch", "B N C", in_backward=False),
        *_parameters("x", "B N C", in_backward=False),  # the residual stream is in their type
        *_parameters("weight", "C"),
        *_parameters("bias", "C", in_backward=False),
        *_parameters("branch_scale", "B", optional=True, differentiable=False),
        *_parameters("branch_bias", "C", optional=True, in_backward=False),
    ),
    (Size("epsilon", "float"),),
    (Output("normed", "B N C", like="branch"), Output("total", "B N C", like="x", saved=True)),
    results=2,
)

DEFORMABLE_ATTENTION = Operator(
    "deformable_attention",
    (
        *_activations("value", "B S h d"),
        *_activations("offsets", "B N h samples 2"),
        *_activations("logits", "B N h samples"),
        *_parameters("reference", "B N levels *"),
    ),
    (Size("shapes", "ints"),),  # rows and columns of one level after the other
    (Output("out", "B N h d", like="value"),),
    backward_options=("deterministic",),
)

ATTENTION_RESIDUAL = Operator(
    "attention_residual",
    (
        *_tokens("x", "B N C"),
        *_parameters("norm_weight, norm_bias", "C", differentiable=False),
        *_packed("projections", "*"),
        *_parameters("projections_bias", "*", optional=True, differentiable=False),
        *_parameters("pool_norm_weight, pool_norm_bias", "C", optional=True, differentiable=False),
        *_packed("pool_projections", "*", optional=True),
        *_PARAMETERS_OF_ATTENTION,
        *_packed("out_projection", "*"),
        *_parameters("out_bias", "C", optional=True, differentiable=False),
    ),
    (
        _GRID,
        _POOL_GRID,
        _WINDOW,
        Size("heads", "int"),
        Size("width", "int", axis="C"),
        Size("epsilon", "float"),
        Size("pool_epsilon", "float"),
        Size("features", "dtype"),
    ),
    (Output("out", "B N C", like="x"),),
    has_backward=False,
)

CONV_GLU_RESIDUAL = Operator(
    "conv_glu_residual",
    (
        *_tokens("x", "B N C"),
        *_parameters("norm_weight, norm_bias", "C", differentiable=False),
        *_packed("value_weight, gate_weight", "*"),
        *_parameters("fc1_bias", "*", optional=True, differentiable=False),
        *_parameters("conv_weight", "hidden 1 3 3", differentiable=False),
        *_parameters("conv_bias", "hidden", optional=True, differentiable=False),
        *_packed("fc2_weight", "*"),
        *_parameters("fc2_bias", "C", optional=True, differentiable=False),
    ),
    (
        _GRID,
        Size("width", "int", axis="C"),
        Size("hidden", "int", axis="hidden"),
        Size("epsilon", "float"),
    ),
    (Output("out", "B N C", like="x"),),
    has_backward=False,
)

PATCH_EMBED = Operator(
    "patch_embed",
    (
        *_tokens("x", "B C H W"),
        *_packed("weight", "*"),
        *_parameters("bias", "columns", optional=True, differentiable=False),
        *_parameters("norm_weight, norm_bias", "columns", differentiable=False),
    ),
    (
        _GRID,
        Size("channels", "int", axis="C"),
        Size("columns", "int"),
        Size("kernel", "int"),
        Size("stride", "int"),
        Size("channels_last", "bool"),
        Size("epsilon", "float"),
    ),
    (Output("out", "B N columns", like="x"),),
    has_backward=False,
)

TOKEN_NORM = Operator(
    "token_norm",
    (
        *_tokens("x", "B N C"),
        *_parameters("norm_weight, norm_bias", "C", differentiable=False),
    ),
    (Size("epsilon", "float"),),
    (Output("out", "B N C", like="x"),),
    has_backward=False,
)

POOLED_LINEAR = Operator(
    "pooled_linear",
    (
        *_tokens("x", "B N C"),
        *_tokens("weight", "K C"),
        *_tokens("bias", "K", optional=True),
    ),
    (),
    (Output("out", "B K", like="x"),),
    has_backward=False,
)

OPERATORS = {
    operator.name: operator
    for operator in (
        AGGREGATED_ATTENTION,
        WINDOW_QK,
        WINDOW_AV,
        POSITION_BIAS_TABLE,
        CONV_GLU,
        GELU_POOL,
        ADD_LAYER_NORM,
        DEFORMABLE_ATTENTION,
    )
}
FUSED_BLOCKS = {
    operator.name: operator
    for operator in (ATTENTION_RESIDUAL, CONV_GLU_RESIDUAL, PATCH_EMBED, TOKEN_NORM, POOLED_LINEAR)
}
