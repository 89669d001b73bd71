"""The benchmark of the trainer's step: pairs of the same work."""

from __future__ import annotations

from benchmarks.training_step import measure


def test_each_step_of_the_trainer_has_a_bare_one_beside_it() -> None:
    pairs = measure("transnext_pico", batch_size=2, size=32, steps=3)
    assert len(pairs.trainer) == len(pairs.bare) == 3
    assert all(elapsed > 0 for elapsed, _ in pairs.trainer + pairs.bare)
