"""Linears in one product, oneDNN's or ours: as exact as PyTorch's, and so are their gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from small_model import images, small_model
from transnext_models.layers import fused_linear as fused_module
from transnext_models.layers import linear as linear_module
from transnext_models.layers.convolution import convolution_layer
from transnext_models.layers.fused_linear import fused_linear, has_fused_linear, only_ours

_cpp = pytest.importorskip("transnext_ops._cpp")
LEVELS = ["baseline", *(n for n in _cpp.available_cpu_levels() if n == "avx2" or "amx" in n)]
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)

pytestmark = pytest.mark.skipif(
    not has_fused_linear(torch.float32), reason="needs a PyTorch with oneDNN"
)


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param not in _cpp.available_cpu_levels():
        pytest.skip(f"this processor has no {request.param}")
    _cpp.set_cpu_level(request.param)
    yield request.param
    _cpp.set_cpu_level(None)


@pytest.fixture(params=["oneDNN", "ours"], autouse=True)
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whose bfloat16 is, whatever the processor; oneDNN's only where it has some."""
    if request.param == "ours":
        monkeypatch.setattr(fused_module, "_onednn_types", lambda: (torch.float32,))
        monkeypatch.setattr(fused_module.platform, "machine", lambda: "x86_64")
    return str(request.param)


def skip_without(dtype: torch.dtype, products: str) -> None:
    if not has_fused_linear(dtype) or (products == "oneDNN" and only_ours(dtype)):
        pytest.skip(f"oneDNN has no products of {dtype} on this processor")


def gradients(function, d_out: Tensor, *tensors: Tensor | None) -> list[Tensor]:
    inputs = [None if t is None else t.detach().requires_grad_() for t in tensors]
    y = function(*inputs)
    (y.double() * d_out).sum().backward()
    return [y.detach(), *(t.grad for t in inputs if t is not None)]


def error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm())


@TYPES
@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("has_bias", [False, True])
def test_results_are_as_exact_as_pytorchs(level, products, dtype, parameters, has_bias) -> None:
    skip_without(dtype, products)
    x, d_out = torch.randn(3, 37, 24), torch.randn(3, 37, 50).double()
    weight, bias = torch.randn(50, 24).to(parameters), torch.randn(50).to(parameters)
    tensors = (x, weight, bias if has_bias else None)
    actual = gradients(lambda *t: fused_linear(*t, dtype), d_out, *tensors)
    assert actual[0].dtype == dtype
    assert [t.dtype for t in actual[1:]] == [t.dtype for t in tensors if t is not None]

    def ordinary(*t: Tensor | None) -> Tensor:
        return F.linear(*(each if each is None else each.to(dtype) for each in t))

    theirs = gradients(ordinary, d_out, *tensors)
    exact = gradients(F.linear, d_out, *(t if t is None else t.double() for t in tensors))
    for ours, their, right in zip(actual, theirs, exact, strict=True):
        assert error(ours, right) <= 1.1 * error(their, right) + 1e-6


@TYPES
def test_only_what_needs_a_gradient_gets_one(level, products, dtype) -> None:
    skip_without(dtype, products)
    x, weight, bias = torch.randn(2, 5, 8), torch.randn(6, 8), torch.randn(6)
    for wanted in (x, weight, bias):
        wanted.requires_grad_()
        fused_linear(x, weight, bias, dtype).sum().backward()
        assert [t is wanted for t in (x, weight, bias)] == [
            t.grad is not None for t in (x, weight, bias)
        ]
        wanted.requires_grad_(False).grad = None


def test_it_has_second_derivatives() -> None:
    x, weight, bias = (torch.randn(*s, requires_grad=True) for s in ((1, 4, 3), (2, 3), (2,)))

    def second(function) -> tuple[Tensor, ...]:
        y = function(x, weight, bias).pow(3).sum()
        first = torch.autograd.grad(y, (x, weight, bias), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), (x, weight, bias))

    actual = second(lambda *t: fused_linear(*t, torch.float32))
    for a, e in zip(actual, second(F.linear), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-4)


def test_a_model_trains_as_by_ordinary_linears(monkeypatch, level, products) -> None:
    """In mixed precision: gradients no further from those of float64."""
    skip_without(torch.bfloat16, products)
    monkeypatch.setattr(linear_module, "_FEWEST_ROWS", 1)
    model, x = small_model().float().train(), images(64).float()
    calls = []
    apply = fused_module._FusedLinear.apply
    monkeypatch.setattr(fused_module._FusedLinear, "apply", lambda *t: calls.append(1) or apply(*t))

    def of(model: nn.Module, x: Tensor, way: str) -> Tensor:
        monkeypatch.setenv("TRANSNEXT_MODELS_LINEAR", way)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.float32):
            y = model(x)
        y.double().square().mean().backward()
        return torch.cat([p.grad.double().flatten() for p in model.parameters()])

    ours, theirs = of(model, x, "fused"), of(model, x, "linear")
    assert calls
    exact = of(model.double(), x.double(), "linear")
    assert error(ours, exact) <= 1.5 * error(theirs, exact)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_a_convolution_is_as_exact_as_pytorchs(products, biased, autocast) -> None:
    layer = nn.Conv2d(5, 9, 3, stride=2, padding=1, bias=biased)
    x, d_out = torch.randn(2, 5, 11, 8), torch.randn(2, 9, 6, 4).double()
    if not autocast:
        layer, x = layer.bfloat16(), x.bfloat16()
    exact = copy.deepcopy(layer).double()

    def by(function, layer: nn.Conv2d, x: Tensor, enabled: bool = False) -> list[Tensor]:
        x = x.detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = function(layer, x)
        (y.double() * d_out).sum().backward()
        found = [y.detach(), x.grad, *(p.grad for p in layer.parameters())]
        layer.zero_grad()
        return found

    actual = by(convolution_layer, layer, x, autocast)
    assert actual[0].dtype == torch.bfloat16
    assert {t.dtype for t in actual[1:]} == {x.dtype}
    theirs = by(nn.Conv2d.__call__, layer, x, autocast)
    right = by(nn.Conv2d.__call__, exact, x.double())
    for ours, their, expected in zip(actual, theirs, right, strict=True):
        assert error(ours, expected) <= 1.1 * error(their, expected) + 1e-6


def test_convolutions_with_hooks_and_of_other_types_are_called(products) -> None:
    layer, seen = nn.Conv2d(3, 4, 3).bfloat16(), []
    with layer.register_forward_hook(lambda *_: seen.append(1)):
        convolution_layer(layer, torch.randn(1, 3, 5, 5).bfloat16())
    assert seen == [1]
    x = torch.randn(1, 3, 5, 5)
    assert torch.equal(convolution_layer(layer.float(), x), layer(x))
    reflecting = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect").bfloat16()
    assert torch.equal(convolution_layer(reflecting, x.bfloat16()), reflecting(x.bfloat16()))
