"""The operator of deformable attention against its formula, and what is no number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from deformable_formula import deformable_attention as formula
from strategies import Numbers, compute_dtype, dtypes, layouts, seeds
from tolerances import ARITHMETIC_UNIT, assert_agrees
from transnext_ops import fused_blocks

_cpp = pytest.importorskip("transnext_ops._cpp")
LEVELS = _cpp.available_cpu_levels()


@dataclass(frozen=True)
class Case:
    batch: int
    queries: int
    heads: int
    channels: int
    points: int
    numbers: int
    shapes: tuple[tuple[int, int], ...]
    dtype: torch.dtype
    layout: str
    level: str
    threads: int
    seed: int

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return values, offsets (some far outside), logits and references."""
        numbers = Numbers(self.seed)
        cells = sum(rows * columns for rows, columns in self.shapes)
        samples = len(self.shapes) * self.points
        of_head = (self.batch, self.queries, self.heads, samples)
        made: dict[str, Any] = {"dtype": self.dtype, "layout": self.layout}
        reference = numbers.generator.random(
            (self.batch, self.queries, len(self.shapes), self.numbers)
        )
        return (
            numbers.activation(self.batch, cells, self.heads, self.channels, **made),
            numbers.activation(*of_head, 2, scale=3.0, **made),
            numbers.activation(*of_head, scale=2.0, **made),
            numbers.tensor(reference, compute_dtype(self.dtype)),
        )


SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))
CASES = st.builds(
    Case,
    batch=st.sampled_from((1, 2, 0)),
    queries=st.sampled_from((1, 5, 40)),
    heads=st.sampled_from((1, 2, 3, 8)),
    channels=st.sampled_from((32, 1, 9, 16, 24, 100)),
    points=st.sampled_from((4, 1, 3)),
    numbers=st.sampled_from((2, 4)),
    shapes=st.lists(SIDES, min_size=1, max_size=4).map(tuple),
    dtype=dtypes,
    layout=layouts,
    level=st.sampled_from(LEVELS),
    threads=st.sampled_from((1, 3)),
    seed=seeds,
)
ORDINARY: dict[str, Any] = {
    "batch": 2, "queries": 33, "heads": 8, "channels": 32, "points": 4, "numbers": 2,
    "shapes": ((6, 9), (3, 5), (2, 3), (1, 1)), "dtype": torch.float32, "layout": "contiguous",
    "level": LEVELS[-1], "threads": 2, "seed": 0,
}  # fmt: skip


@given(CASES)
@example(Case(**ORDINARY))
@example(Case(**ORDINARY | {"numbers": 4, "dtype": torch.bfloat16}))
def test_the_operator_is_the_formula(case: Case) -> None:
    inputs = case.inputs()
    before = torch.get_num_threads()
    _cpp.set_cpu_level(case.level)
    torch.set_num_threads(case.threads)
    try:
        actual = fused_blocks.deformable_attention(*inputs, case.shapes)
    finally:
        torch.set_num_threads(before)
        _cpp.set_cpu_level(None)
    exact = [x.double().numpy() for x in inputs]
    expected = formula(*exact, case.shapes)
    # Places are as precise as the arithmetic, of coordinates of up to about 20 cells.
    place = 64 * ARITHMETIC_UNIT[case.dtype] * float(np.linalg.norm(exact[0]))
    samples = len(case.shapes) * case.points
    assert_agrees(
        "out", actual, expected,
        dtype=case.dtype, work=4 * samples, condition=place * math.sqrt(case.queries),
    )  # fmt: skip


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_no_number_stays_where_it_is_looked_at(level: str) -> None:
    case = Case(**ORDINARY | {"level": level})
    value, offsets, logits, reference = case.inputs()

    def run(*inputs: Tensor) -> Tensor:
        out = fused_blocks.deformable_attention(*inputs, case.shapes)
        return out.unflatten(-1, (case.heads, -1))

    _cpp.set_cpu_level(level)
    try:
        clean = run(value, offsets, logits, reference)
        spoilt = value.clone()
        spoilt[1, 7, 2, 5] = math.nan
        touched = run(spoilt, offsets, logits, reference).isnan()
        nowhere = offsets.clone()
        nowhere[0, 3, 1] = torch.tensor([math.nan, math.inf])
        without = run(value, nowhere, logits, reference)
        lost = logits.clone()
        lost[0, 3, 1, 2] = math.nan
        unknown = run(value, offsets, lost, reference).isnan()
    finally:
        _cpp.set_cpu_level(None)
    assert clean.isfinite().all()
    assert touched.any()
    assert touched.sum() == touched[1, :, 2, 5].sum()
    assert without[0, 3, 1].eq(0).all()
    without[0, 3, 1] = clean[0, 3, 1]
    assert torch.equal(without, clean)
    assert unknown[0, 3, 1].all()
    assert unknown.sum() == case.channels


def test_errors_name_the_argument() -> None:
    case = Case(**ORDINARY)
    value, offsets, logits, reference = case.inputs()

    def run(**changes: Any) -> Tensor:
        named = {
            "value": value, "offsets": offsets, "logits": logits, "reference": reference,
            "shapes": case.shapes,
        }  # fmt: skip
        return fused_blocks.deformable_attention(**{**named, **changes})

    for changes, message in (
        ({"value": value[:, 1:]}, "value: got 75 cells, needs 76"),
        ({"value": value.to("meta")}, "value: got device meta, needs the CPU"),
        ({"offsets": offsets[..., :1]}, r"offsets: got shape \[2, 33, 8, 16, 1\]"),
        ({"logits": logits[..., :15], "offsets": offsets[..., :15, :]}, "logits: got 15 samples"),
        ({"reference": reference[:, :, 1:]}, r"reference: got shape \[2, 33, 3, 2\]"),
        ({"reference": torch.rand(2, 33, 4, 3)}, r"reference: got shape \[2, 33, 4, 3\]"),
        ({"shapes": ((0, 9), *case.shapes[1:])}, "shapes: got 0x9"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**changes)
    with pytest.raises(TypeError, match=r"offsets: got torch\.float64"):
        run(offsets=offsets.double())


def test_the_compiled_function_checks_what_it_reads() -> None:
    case = Case(**ORDINARY)
    shapes = torch.tensor(case.shapes, dtype=torch.int32)
    value, offsets, logits, reference = case.inputs()
    for changed, message in (
        (shapes[:-1], "16 samples, needs the same number on each of 3 levels"),
        (shapes[:2], "value has 76 cells, shapes 69"),
        (shapes * 0, "a level without cells"),
        (-shapes, "the index -"),
    ):
        with pytest.raises(ValueError, match=message):
            torch.ops.transnext.deformable_attention(
                value, offsets, logits, reference, changed, "cpp"
            )
    with pytest.raises(ValueError, match="reference has 3 numbers"):
        torch.ops.transnext.deformable_attention(
            value, offsets, logits, torch.rand(2, 33, 4, 3), shapes, "cpp"
        )
