"""The sum of two branches and its LayerNorm against the NumPy reference: one given case."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

import transnext_ops as ops
import transnext_reference as reference
from agreement import array, check_operator, leaves
from strategies import TokenCase, compute_dtype

EPSILON = 1e-2  # of norms: what is small beside it does not make a token of few channels large


def check_add_layer_norm(case: TokenCase, backend: str) -> None:
    """The norm alone where the case has no bias, else both results; a scale if it has heads.

    The branch has a bias in even batches.
    """
    # The norm of one channel is its bias, and that of few nearly so: gradients are what rounding
    # leaves of terms that cancel.
    case = replace(case, channels=max(case.channels, 7))
    shape = (case.batch, case.length, case.channels)
    numbers, compute = case.numbers, compute_dtype(case.dtype)
    scale = numbers.parameter(case.batch, dtype=case.dtype) if case.heads > 1 else None
    parameters = ["weight", "bias"] + ["branch_bias"] * (case.batch % 2 == 0)
    inputs = leaves(
        {
            "x": numbers.activation(*shape, dtype=compute, layout=case.layout),
            "branch": numbers.activation(*shape, dtype=case.dtype, layout=case.layout),
            **{name: numbers.parameter(case.channels, dtype=case.dtype) for name in parameters},
        }
    )
    total, normed = ops.add_layer_norm(
        **inputs, epsilon=EPSILON, branch_scale=scale, backend=backend
    )
    assert (total.dtype, normed.dtype) == (compute, case.dtype)
    out = torch.cat((normed, total.to(case.dtype)), -1) if case.with_bias else normed
    scales = {"branch_scale": array(scale), "epsilon": EPSILON}

    def forward(x, branch, weight, bias, branch_bias=None):
        both = reference.add_layer_norm(x, branch, weight, bias, branch_bias=branch_bias, **scales)
        return np.concatenate(both[::-1], -1) if case.with_bias else both[1]

    def backward(d_out, x, branch, weight, bias, branch_bias=None):
        sum_of_both, _ = reference.add_layer_norm(
            x, branch, weight, bias, branch_bias=branch_bias, **scales
        )
        d_normed, d_total = d_out[..., : case.channels], d_out[..., case.channels :]
        return reference.add_layer_norm_backward(
            d_total if case.with_bias else None, d_normed, sum_of_both, weight, **scales
        )

    work = case.channels
    check_operator(case, inputs, out, forward, backward, work, work + case.batch * case.length)
