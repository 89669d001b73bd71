"""Deformable attention against the NumPy reference: values and gradients of one given case."""

from __future__ import annotations

import transnext_ops as ops
import transnext_reference as reference
from agreement import check_operator, leaves
from deformable_cases import DeformableCase


def check_deformable_attention(case: DeformableCase, backend: str) -> None:
    inputs = leaves(case.tensors())
    out = ops.deformable_attention(**inputs, shapes=case.shapes, backend=backend)
    assert out.dtype == case.dtype

    def forward(**given):
        return reference.deformable_attention(**given, shapes=case.shapes)

    def backward(d_out, **given):
        return reference.deformable_attention_backward(d_out, **given, shapes=case.shapes)

    work = 4 * case.samples
    gradient_work = work + case.channels + case.heads * case.queries
    check_operator(case, inputs, out, forward, backward, work, gradient_work)
