"""Deformable attention: every backend against the reference, and what is no number."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import transnext_ops as ops
from deformable_agreement import check_deformable_attention
from deformable_cases import ORDINARY, DeformableCase, deformable_cases, ordinary

BACKENDS = [name for name in ops.available_backends() if name != "cupy"]
backends = pytest.mark.parametrize("backend", BACKENDS)
_cpp = pytest.importorskip("transnext_ops._cpp")
LEVELS = _cpp.available_cpu_levels()
SHAPES = ORDINARY.shapes


@backends
@settings(max_examples=40)
@given(case=deformable_cases())
@example(case=ORDINARY)
@example(case=ordinary(numbers=4, dtype=torch.bfloat16))
@example(case=ordinary(queries=0))
def test_agreement(backend: str, case: DeformableCase) -> None:
    if backend == "reference":
        case = replace(case, queries=min(case.queries, 2), heads=min(case.heads, 2))
    check_deformable_attention(case, backend)


@given(case=deformable_cases(), level=st.sampled_from(LEVELS), threads=st.sampled_from((1, 3)))
def test_every_level_of_the_processor(case: DeformableCase, level: str, threads: int) -> None:
    before = torch.get_num_threads()
    _cpp.set_cpu_level(level)
    torch.set_num_threads(threads)
    try:
        check_deformable_attention(case, "cpp")
    finally:
        torch.set_num_threads(before)
        _cpp.set_cpu_level(None)


def gradients(case: DeformableCase, **changes: Tensor) -> dict[str, Tensor]:
    """Return the gradients of the sum of all outputs, and the outputs, on the compiled backend."""
    inputs = {
        name: changes.get(name, tensor).detach().requires_grad_()
        for name, tensor in case.tensors().items()
    }
    out = ops.deformable_attention(**inputs, shapes=case.shapes, backend="cpp")
    found = torch.autograd.grad(out.sum(), list(inputs.values()))
    return {"out": out.detach(), **dict(zip(inputs, found, strict=True))}


def test_the_number_of_threads_changes_no_bit() -> None:
    before = torch.get_num_threads()
    try:
        one, three = (
            (torch.set_num_threads(threads), gradients(ORDINARY))[1] for threads in (1, 3)
        )
    finally:
        torch.set_num_threads(before)
    for name, tensor in one.items():
        assert torch.equal(tensor, three[name]), name


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_no_number_stays_where_it_is_looked_at(level: str) -> None:
    case = ordinary(heads=3)
    tensors = case.tensors()
    spoilt = tensors["value"].clone()
    spoilt[1, 7, 2, 5] = math.nan
    nowhere = tensors["offsets"].clone()
    nowhere[0, 3, 1] = torch.tensor([math.nan, math.inf])
    lost = tensors["logits"].clone()
    lost[0, 3, 1, 2] = math.nan
    _cpp.set_cpu_level(level)
    try:
        clean = gradients(case)
        touched = gradients(case, value=spoilt)
        without = gradients(case, offsets=nowhere)
        unknown = gradients(case, logits=lost)
    finally:
        _cpp.set_cpu_level(None)
    assert all(tensor.isfinite().all() for tensor in clean.values())
    at = touched["out"].isnan()
    assert at.any()
    assert at.sum() == at[1, :, 2, 5].sum()
    assert touched["value"].isfinite().all()  # its gradient does not depend on it
    for name in ("offsets", "logits"):  # of the queries that look at it, and of others that would
        spread = touched[name].isnan()
        assert spread.any()
        assert spread.sum() == spread[1, :, 2].sum()
    assert without["out"][0, 3, 1].eq(0).all()
    assert without["offsets"][0, 3, 1].eq(0).all()
    without["out"][0, 3, 1] = clean["out"][0, 3, 1]
    assert torch.equal(without["out"], clean["out"])
    assert unknown["out"].isnan().sum() == case.channels
    assert unknown["out"][0, 3, 1].isnan().all()


def test_places_on_the_edge_of_the_map() -> None:
    """One cell left of the first column nothing is read, but moving right would."""
    value = torch.ones(1, 4, 1, 3).requires_grad_()
    reference = torch.full((1, 3, 1, 2), 0.5)
    offsets = torch.zeros(1, 3, 1, 1, 2)
    offsets[0, :, 0, 0, 0] = torch.tensor([-1.5, -1.5625, 1.5])  # x = -1, below it, and the width
    offsets.requires_grad_()
    logits = torch.zeros(1, 3, 1, 1)
    results = {}
    for backend in BACKENDS:
        out = ops.deformable_attention(
            value, offsets, logits, reference, shapes=[(2, 2)], backend=backend
        )
        assert out.eq(0).all(), backend
        results[backend] = torch.autograd.grad(out.sum(), (value, offsets))
        assert results[backend][0].eq(0).all(), backend
    for of_value, of_offsets in results.values():
        assert of_value.shape == value.shape
        assert of_offsets[0, :, 0, 0, 0].tolist() == [3.0, 0.0, 0.0]


def test_the_backward_keeps_the_inputs_alone() -> None:
    tensors = {name: tensor.requires_grad_() for name, tensor in ORDINARY.tensors().items()}
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ops.deformable_attention(**tensors, shapes=SHAPES, backend="cpp")
    assert set(kept) == {tensor.data_ptr() for tensor in tensors.values()}


@backends
def test_only_the_gradients_asked_for_are_computed(backend: str) -> None:
    tensors = ordinary(numbers=4).tensors()
    every = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    ops.deformable_attention(**every, shapes=SHAPES, backend=backend).sum().backward()
    for asked in tensors:
        some = {
            name: tensor.clone().requires_grad_(name == asked) for name, tensor in tensors.items()
        }
        ops.deformable_attention(**some, shapes=SHAPES, backend=backend).sum().backward()
        assert [name for name, tensor in some.items() if tensor.grad is not None] == [asked]
        torch.testing.assert_close(some[asked].grad, every[asked].grad)


def test_errors_name_the_argument() -> None:
    tensors = ORDINARY.tensors()
    offsets, logits, reference = tensors["offsets"], tensors["logits"], tensors["reference"]

    def run(**changes: Any) -> Tensor:
        return ops.deformable_attention(**{**tensors, "shapes": SHAPES, **changes})

    for changes, message in (
        ({"value": tensors["value"][:, 1:]}, "value: got 75 cells, needs 76"),
        ({"value": tensors["value"][..., :0]}, "value: got shape"),
        ({"offsets": offsets[..., :1]}, r"offsets: got shape \[2, 33, 8, 16, 1\]"),
        ({"logits": logits[..., :15], "offsets": offsets[..., :15, :]}, "logits: got 15 samples"),
        ({"logits": logits[..., 0]}, "logits: got 3 dimensions"),
        ({"logits": logits[:1]}, r"logits: got shape \[1, 33, 8, 16\]"),
        ({"reference": reference[:, :, 1:]}, r"reference: got shape \[2, 33, 3, 2\]"),
        ({"reference": torch.rand(2, 33, 4, 3)}, r"reference: got shape \[2, 33, 4, 3\]"),
        ({"reference": reference.to("meta")}, "reference: got device meta"),
        ({"shapes": ((0, 9), *SHAPES[1:])}, "shapes: got 0x9"),
        ({"shapes": ()}, "shapes: got 0 levels, needs 1 to 64"),
        ({"shapes": [(1, 1)] * 65}, "shapes: got 65 levels, needs 1 to 64"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**changes)
    for changes, message in (
        ({"offsets": offsets.double()}, r"offsets: got torch\.float64"),
        ({"logits": None}, "logits: got NoneType"),
        ({"shapes": [(1.5, 2)]}, "shapes: got"),
        ({"reference": reference.long()}, r"reference: got torch\.int64"),
    ):
        with pytest.raises(TypeError, match=message):
            run(**changes)


def test_the_compiled_function_checks_what_it_reads() -> None:
    tensors = replace(ORDINARY, batch=1).tensors()
    sides = [side for shape in SHAPES for side in shape]
    for changed, message in (
        (sides[:-2], "16 samples, needs the same number on each of 3 levels"),
        (sides[:4], "value has 76 cells, shapes 69"),
        (sides[:-1], "shapes has 7 numbers, needs the rows and columns"),
        ([], "shapes has 0 numbers"),
        ([1, 1] * 65, "shapes has 65 levels, needs at most 64"),
        ([0, *sides[1:]], "shapes has a level of side 0"),
        ([2**40, *sides[1:]], "shapes has a level of side 1099511627776"),
        ([2**20, 2**20], "shapes has too many cells"),
    ):
        with pytest.raises(ValueError, match=message):
            torch.ops.transnext.deformable_attention(*tensors.values(), changed, "cpp")
    tensors["reference"] = torch.rand(1, 33, 4, 3)
    with pytest.raises(ValueError, match="reference has 3 numbers"):
        torch.ops.transnext.deformable_attention(*tensors.values(), sides, "cpp")
