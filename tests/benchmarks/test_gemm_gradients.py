"""The products of a backward pass in the benchmarks' floor: every way gives the gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from benchmarks.gemms.forward import record_gemms
from benchmarks.gemms.gradients import attention_gradients, convolution_gradients, linear_gradients
from benchmarks.shapes import cases


class Drawn:
    """Draws an operand for each shape that is asked for, and keeps it."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.by_shape: dict[tuple[int, ...], torch.Tensor] = {}

    def __call__(self, shape: tuple[int, ...]) -> torch.Tensor:
        if shape not in self.by_shape:
            self.by_shape[shape] = torch.randn(shape, generator=self.generator)
        return self.by_shape[shape]


def test_of_a_linear():
    like = Drawn()
    x, weight = like((2, 12, 8)), like((5, 8))
    to_input, to_weight = linear_gradients(x, weight, like)
    d_y = like((24, 5))
    tokens = x.reshape(24, 8)
    assert to_input.flops == to_weight.flops == 2 * 24 * 8 * 5
    expected = {"d_x": d_y @ weight, "d_weight": d_y.t() @ tokens, "d_bias": d_y.sum(0)}
    for name, way in to_input.ways.items():
        d_x = way()
        if name == "1x1 convolution":
            d_x = d_x[0].permute(0, 2, 3, 1).reshape(24, 8)
        torch.testing.assert_close(d_x, expected["d_x"])
    for name, way in to_weight.ways.items():
        d_weight, d_bias = way()[-2:]
        if name == "transposed result":
            d_weight = d_weight.t()
        torch.testing.assert_close(d_weight.reshape(5, 8), expected["d_weight"])
        torch.testing.assert_close(d_bias, expected["d_bias"])


@pytest.mark.parametrize("to_image", [True, False])
@pytest.mark.parametrize("groups", [1, 6])
def test_of_a_convolution(groups, to_image):
    like = Drawn()
    module = nn.Conv2d(6, 6, 3, 1 if groups > 1 else 2, 1, groups=groups)
    x, weight = like((2, 6, 8, 10)), module.weight.detach()
    (product,) = convolution_gradients(x, weight, module, like, to_image)
    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    y = nn.functional.conv2d(*leaves, None, module.stride, module.padding, module.dilation, groups)
    expected = torch.autograd.grad(y, leaves, like(tuple(y.shape)))
    assert product.flops == 2 * y.numel() * weight[0].numel() * (2 if to_image else 1)
    assert ("transnext_ops.conv_glu" in product.ways) == (groups > 1)
    for name, way in product.ways.items():
        if name == "transnext_ops.conv_glu":
            assert [g.shape[0] for g in way()] == [2, 6]  # of the whole unit
            continue
        d_x, d_weight, _ = way()
        torch.testing.assert_close(d_weight, expected[1])
        if to_image:
            torch.testing.assert_close(d_x, expected[0])


def test_of_attention():
    products = attention_gradients(Drawn(), 3, 10, 4, 8)
    assert [tuple(p.ways["bmm"]().shape) for p in products] == [
        (3, 10, 8), (3, 4, 8), (3, 10, 4), (3, 4, 8),
    ]  # fmt: skip
    assert all(product.flops == 2 * 3 * 10 * 4 * 8 for product in products)


def test_a_step_has_twice_the_forward_products_more():
    """But for the gradient to the image, which nobody asks for."""
    both = next(c for c in cases.model_cases(False, False) if c.direction == "both")
    both = dataclasses.replace(both, subject="transnext_micro", batch=1, size=(64, 64))
    forward = dataclasses.replace(both, direction="forward")
    totals = []
    for case in (forward, both):
        products = record_gemms(case, torch.float32)
        totals.append(sum(product.flops for product in products))
    image = 2 * 16 * 16 * 48 * 3 * 7 * 7
    first = record_gemms(forward, torch.float32)[0]
    assert first.kind == "convolution"
    assert first.flops == image
    assert totals[1] == 3 * totals[0] - image
