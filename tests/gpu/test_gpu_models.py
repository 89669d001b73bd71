"""Models on a GPU: training steps, autocast, compilation, whole-model graphs.

That they compute what the published ones did: tests/models/test_model_golden.py, on the GPU too.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("transnext_ops._cpp")

from small_model import images, small_model

UNITS = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


@pytest.fixture(autouse=True)
def _exact_convolutions(monkeypatch):
    """cuDNN's float32 convolutions are TF32's by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def gradients(model: torch.nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(x).float().square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm().clamp(min=1e-6))


@pytest.mark.parametrize("position_bias", ["extrapolate", "interpolate"])
def test_a_step_is_the_float64_step_of_torch(backend, cuda, position_bias) -> None:
    exact = small_model(img_size=64, position_bias=position_bias, backend="torch").to(cuda)
    x = images(64, 96).to(cuda)
    expected = gradients(exact, x)
    model = small_model(img_size=64, position_bias=position_bias, backend=backend).to(cuda).float()
    actual = gradients(model, x.float())
    assert set(actual) == set(expected)
    largest = max(gradient.norm() for gradient in expected.values())
    for name, gradient in expected.items():
        difference = (actual[name].double() - gradient).norm()
        assert difference <= 1e-4 * gradient.norm() + 1e-6 * largest, name


@pytest.mark.parametrize("dtype", list(UNITS), ids=str)
def test_autocast(backend, cuda, dtype) -> None:
    exact = small_model(img_size=64, backend="torch").to(cuda)
    x = images(64, 64).to(cuda)
    with torch.no_grad():
        expected = exact(x)
    model = small_model(img_size=64, backend=backend).to(cuda).float()
    with torch.autocast("cuda", dtype):
        actual = model(x.float())
        actual.float().square().sum().backward()
    assert error(actual.detach(), expected) <= 40 * UNITS[dtype]
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_model_can_be_captured_in_a_graph(backend, cuda) -> None:
    model = small_model(img_size=64, backend=backend).to(cuda).float()
    x = images(64, 64).to(cuda).float()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):
            model(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        out = model(x)
    x.copy_(images(64, 64, seed=1).to(cuda))
    graph.replay()
    with torch.no_grad():
        torch.testing.assert_close(out, model(x))


def test_a_compiled_model_is_the_model(cuda) -> None:
    model = small_model(img_size=64, backend="cpp").to(cuda).float()
    x = images(64, 64).to(cuda).float()
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        assert error(compiled(x), model(x).double()) <= 1e-5
