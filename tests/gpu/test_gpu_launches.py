"""The benchmark of launches has a bare graph to compare with on a card."""

from __future__ import annotations

from benchmarks.cuda.launches import Setting, measure


def test_a_graph_is_beside_the_ways(cuda) -> None:
    setting = Setting(cuda, "transnext_micro", batch=2, side=64, compiled=False)
    for _, seconds in measure(setting, runs=2):
        assert list(seconds) == ["graph", "eager", "capture"]
        assert min(seconds.values()) > 0
