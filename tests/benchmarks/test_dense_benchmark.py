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
    model.own = torch.nn.Parameter(torch.zeros(1))  # as DINO has, which none of its parts owns
    twin = published_twin(NAME, model)
    assert twin.own is model.own
    assert twin.backbone is not model.backbone
    image = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(twin(image), model(image), rtol=1e-4, atol=1e-4)


def test_all_are_timed_in_turn() -> None:
    times = measure(NAME, (64, 64), runs=2)
    assert len(times.ours) == len(times.published) == len(times.product) == 2
    assert all(seconds > 0 for seconds in times.ours + times.published + times.product)
    assert "GFLOP/s" in str(times)
