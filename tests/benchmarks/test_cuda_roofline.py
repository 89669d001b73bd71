"""Roofline bounds of the CUDA kernels: the counts behind them, and that the page shows these."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.cuda.cases import device_cases
from benchmarks.cuda.roofline import (
    CARDS,
    WORK,
    attention_work,
    bound_seconds,
    conv_glu_work,
    lines,
)
from benchmarks.shapes.sizes import Shapes

STAGE_1 = Shapes(1, (56, 56), (7, 7), (56, 56), 3, 384)
STAGE_4 = Shapes(1, (7, 7), (7, 7), (7, 7), 24, 1536)


def test_the_document_shows_what_the_command_prints():
    document = (Path(__file__).parents[2] / "docs" / "roofline.md").read_text()
    assert "\n".join(lines()) in document


def test_attention_counts_every_input_once():
    work = attention_work(STAGE_1, 2, backward=False, local=True)
    queries = 56 * 56 * 3
    inputs, outputs = 3 * queries * 24 + 2 * 49 * 72, queries * 24
    table = (56 + 8 * 6) ** 2 * 3 * 4
    assert work.moved == 2 * (inputs + outputs) + 4 * queries + table
    assert work.gemms == queries * 4 * 24 * 49
    assert work.exponentials == queries * 58


def test_the_largest_time_bounds_a_kernel():
    card = next(card for card in CARDS if card.name == "H100")
    times = conv_glu_work(STAGE_1, 4, backward=False).seconds(card, "float32")
    assert times["bytes"] == pytest.approx(3 * 56 * 56 * 384 * 4 / 3350e9)
    assert max(times, key=lambda name: times[name]) == "bytes"
    assert times["tensor cores"] == 0.0


def test_tensor_cores_take_the_products_in_the_precisions_that_they_have():
    card = next(card for card in CARDS if card.name == "A100")
    work = attention_work(STAGE_1, 4, backward=False, local=True)
    plain, tf32 = work.seconds(card, "float32"), work.seconds(card, "TF32")
    assert plain["float32"] == pytest.approx((work.gemms + work.other) / 19.5e12)
    assert tf32["tensor cores"] == pytest.approx(work.gemms / 156e12)
    assert tf32["float32"] == pytest.approx(work.other / 19.5e12)
    assert tf32["bytes"] == plain["bytes"]


def test_the_kernel_report_derives_the_same_operations():
    subjects = pytest.importorskip("tools.kernel_report.subjects").subjects
    found = {subject.operator: subject.operations for subject in subjects("224")}
    for operator, work_of in WORK.items():
        name = "position_bias_table" if operator == "position_bias" else operator
        for backward in (False, True):
            sizes = STAGE_4 if operator == "global_attention" else STAGE_1
            work = work_of(sizes, 2, backward)
            operations = work.gemms + work.other
            if "attention" in operator:  # an operation for each exponential, none inside another
                operations += work.exponentials
            assert found[f"{name}_backward" if backward else name] == operations, operator


def test_a_card_is_known_by_its_name():
    name = "conv_glu stage 1 224x224 batch 64 float16"
    forward, both = (
        next(case for case in device_cases() if case.name == f"{name} {direction}")
        for direction in ("forward", "both")
    )
    seconds = bound_seconds(forward, "NVIDIA H200")
    assert seconds == pytest.approx(64 * 3 * 56 * 56 * 384 * 2 / 4800e9)
    assert bound_seconds(both, "NVIDIA H200") == pytest.approx(seconds * (1 + 5 / 3))
    assert bound_seconds(forward, "NVIDIA H100 80GB HBM3") > seconds
    assert bound_seconds(forward, "NVIDIA Example 100") is None
    model = next(case for case in device_cases() if case.what == "models")
    assert bound_seconds(model, "NVIDIA H200") is None
