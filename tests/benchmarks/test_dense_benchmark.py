"""The benchmark of detectors and segmentors: the same model on two backbones."""

from __future__ import annotations

import torch

from benchmarks.dense import measure, published_twin
from transnext_models import create_model

NAME = "upernet_transnext_pico"


@torch.no_grad()
def test_the_twin_computes_the_same() -> None:
    torch.manual_seed(0)
    model = create_model(NAME).eval()
    image = torch.randn(1, 3, 64, 96)
    found = published_twin(NAME, model)(image)
    torch.testing.assert_close(found, model(image), rtol=1e-4, atol=1e-4)


def test_both_are_timed_in_turn() -> None:
    ours, published = measure(NAME, (64, 64), runs=2)
    assert len(ours) == len(published) == 2
    assert all(seconds > 0 for seconds in ours + published)
