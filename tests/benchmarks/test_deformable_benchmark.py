"""The benchmark of deformable attention: its counts, and that it times both backends."""

from __future__ import annotations

import pytest

from benchmarks import deformable_attention

SMALL = {"height": 64, "width": 96}
CELLS = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2


def test_one_operator_each_way() -> None:
    whole = deformable_attention.count_step("reference", **SMALL)
    assert whole.calls["transnext.deformable_attention"] == 1
    assert whole.calls["transnext.deformable_attention_backward"] == 1
    apart = deformable_attention.count_step("torch", **SMALL)
    assert apart.calls["aten.grid_sampler_2d"] == 4
    assert apart.operators > whole.operators
    assert apart.gigabytes > whole.gigabytes


def test_the_operator_keeps_no_samples() -> None:
    whole = deformable_attention.kept_bytes("reference", **SMALL)
    apart = deformable_attention.kept_bytes("torch", **SMALL)
    sampled = CELLS * 16 * 256 * 4  # of all levels and points, in float32
    assert apart - whole > sampled
    assert whole < sampled


def test_it_prints_counts_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transnext_ops._cpp")
    deformable_attention.main(["--height", "64", "--width", "96", "--runs", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "by layers",
        "one operator",
        "torch",
        "cpp",
    ]
