"""What attention executes on a GPU, counted on its PTX, stays below what was asked."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transnext_ops._cpp")

from ptx_emulator import emulator as needs_emulator
from ptx_emulator import kept
from tools.kernel_report import compilers, emulator
from tools.kernel_report.subjects import HEAD_DIM, subjects


# 56 x 56 queries with 49 pooled keys, float16.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "architecture", "most"),
    [
        ("aggregated_attention 224", 80, 3000),
        ("aggregated_attention_backward 224", 80, 12000),
        # Where strips own the pooled keys' gradients.
        ("aggregated_attention_backward 224", 90, 10400),
    ],
)
def test_attention_takes_few_instructions_for_a_query_and_head(name, architecture, most) -> None:
    if (reason := compilers.unavailable("nvcc")) is not None:
        pytest.skip(reason)
    needs_emulator()
    subject = next(subject for subject in subjects("224") if subject.name == name)

    def make() -> str:
        counts = emulator.count(subject, torch.float16, "nvcc", architecture)
        return str(counts.total().instructions)

    instructions = int(kept(f"instructions of {name} {architecture}", make))
    queries = subject.outputs // HEAD_DIM
    assert most / 2 < instructions / queries <= most
