"""The benchmark runner: its cases, what it concludes from results, and one case end to end."""

from __future__ import annotations

import csv
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gemms.forward import linear_gemm
from benchmarks.roofline import rates
from benchmarks.roofline.bound import bound_step, operator_work
from benchmarks.runner import inside_model
from benchmarks.runner.operator_steps import build_operator
from benchmarks.shapes import cases

ROOT = Path(__file__).parents[2]


def test_case_names_are_unique():
    names = [case.name for case in cases.all_cases(compiled=True)]
    assert len(names) == len(set(names))


def small(case: cases.Case) -> cases.Case:
    return dataclasses.replace(case, batch=2, size=(64, 96))


OPERATORS = [
    case
    for case in cases.operator_cases()
    if case.size == (224, 224) and case.stage == 0 and case.direction != "forward"
]


@pytest.mark.parametrize("case", OPERATORS, ids=lambda case: f"{case.subject} {case.dtype}")
def test_operator_steps_do_the_same_work(case):
    """All candidates run; the package's q, k, v come apart, so gradients differ in number."""
    for candidate in case.candidates:
        if candidate == cases.BOUND:
            continue
        gradients = build_operator(small(case), candidate).run()
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_conv_glu_candidates_agree_on_the_same_numbers():
    case = small(next(c for c in OPERATORS if c.subject == "conv_glu"))
    gradients = []
    for candidate in (cases.PUBLISHED, cases.OURS):
        torch.manual_seed(0)  # inputs and the output's gradient are drawn in the same order
        gradients.append(build_operator(case, candidate).run())
    for published, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, published, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("subject", ["aggregated_attention", "window_av"])
def test_floor_is_a_share_of_what_takes_longest(subject, monkeypatch):
    """A processor without arithmetic's cost is bound by bytes, and the other way round."""
    case = small(next(c for c in OPERATORS if c.subject == subject))
    flops, moved = operator_work(case)
    ways = {"gemm": (object, 2.0 * flops), "copy": (list, 4.0 * moved)}
    monkeypatch.setattr(rates, "best_gemm", lambda: ways["gemm"])
    monkeypatch.setattr(rates, "copy", lambda moved: ways["copy"])
    for slow, note, fraction in (("gemm", "arithmetic", 0.5), ("copy", "bytes", 0.25)):
        cost = {way[0]: 9.0 if name == slow else 1.0 for name, way in ways.items()}
        monkeypatch.setattr(rates, "median_seconds", cost.__getitem__)
        step = bound_step(case)
        step.run()
        assert (step.note, step.fraction) == (note, fraction)


def test_floor_step_runs_whichever_way_is_best(monkeypatch):
    for seconds in ([2.0, 1.0] * 3 + [0.0, 0.0], [1.0, 2.0] * 3 + [0.0, 0.0]):
        order = iter(seconds)
        monkeypatch.setattr(rates, "median_seconds", lambda function, order=order: next(order))
        step = bound_step(small(OPERATORS[0]))
        step.run()
        assert 0 < step.fraction < 1


def test_every_way_of_a_linear_gives_the_same():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 12, 8, generator=generator)
    weight, bias = torch.randn(5, 8, generator=generator), torch.randn(5, generator=generator)
    product = linear_gemm(x, weight, bias)
    assert product.flops == 2 * 24 * 8 * 5
    expected = torch.nn.functional.linear(x, weight, bias).reshape(24, 5)
    assert {"linear", "transposed weight", "1x1 convolution"} <= set(product.ways)
    for name, way in product.ways.items():
        out = way()
        tokens = out.permute(0, 2, 3, 1) if name == "1x1 convolution" else out
        torch.testing.assert_close(tokens.reshape(24, 5), expected)


def test_work_of_window_products():
    case = next(c for c in cases.operator_cases() if c.subject == "window_qk" and c.batch == 8)
    flops, moved = operator_work(case)
    queries = 8 * 56 * 56 * 3
    assert flops == queries * 2 * 24 * 9
    assert moved == 4 * queries * (24 + 24 + 9)


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_work_of_attention_is_its_products_and_a_little(direction):
    """Against PyTorch's own count of the published formulation's products."""
    case = next(c for c in OPERATORS if c.subject == "aggregated_attention")
    case = small(dataclasses.replace(case, direction=direction))
    step = build_operator(case, cases.PUBLISHED)
    with FlopCounterMode(display=False) as products:
        step.run()
    flops, _ = operator_work(case)
    assert 1 < flops / products.get_total_flops() < 1.6


@pytest.mark.slow
def test_a_case_end_to_end(tmp_path):
    command = [
        sys.executable, "benchmarks/run.py", "--only", "gelu_pool stage 3 224x224", "forward",
        "--runs", "3", "--budget", "0.1", "--threads", "1", "--results", str(tmp_path),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("operators-float32-*.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["candidate"] for row in rows] == ["published", "ours", "roofline bound"]
    for row in rows:
        low, median, high = (
            float(row[name])
            for name in ("first_quartile_seconds", "median_seconds", "third_quartile_seconds")
        )
        assert 0 < low <= median <= high
        assert row["torch"]
        assert row["threads"] == "1"


def test_operators_inside_a_model_and_alone():
    rows = inside_model.measure("transnext_micro", batch=1, side=64, runs=1)
    calls = {name.split()[0] for name, _, _ in rows}
    assert {"aggregated_attention", "aggregated_attention_backward", "conv_glu_backward"} <= calls
    assert all(inside > 0 and alone > 0 for _, inside, alone in rows)
