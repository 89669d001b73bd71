"""Operators under ``torch.func``: vmap, per-sample gradients, forward mode, Jacobians.

Backend ``torch`` has all of it. Compiled ones map over inputs, and for the rest name that backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vjp, vmap

import transnext_ops as ops
from operator_calls import GRID, HEADS, LENGTH, POOL, attention_call, operator_calls
from transnext_ops import grid_constants

CALLS = operator_calls(torch.float64)
KERNELS = [name for name in ops.available_backends() if name not in ("torch", "cupy")]
every_operator = pytest.mark.parametrize("name", CALLS)
# PyTorch differentiates grid_sample, of which it is made, backwards and once.
but_deformable_attention = pytest.mark.parametrize(
    "name", [name for name in CALLS if name != "deformable_attention"]
)
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")


def operator(name: str, backend: str) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    function, tensors, keywords = CALLS[name]

    def call(*inputs: Tensor) -> Tensor:
        return function(*inputs, **keywords, backend=backend).nan_to_num(neginf=0.0)

    return call, tuple(tensor.detach() for tensor in tensors)


def several(tensors: tuple[Tensor, ...], count: int = 3) -> tuple[Tensor, ...]:
    """Return `count` different versions of every tensor, on a new first axis."""
    generator = torch.Generator().manual_seed(0)
    return tuple(
        t + 0.3 * torch.randn((count, *t.shape), generator=generator, dtype=t.dtype)
        for t in tensors
    )


def assert_close(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


@every_operator
@pytest.mark.parametrize("backend", ["torch", *KERNELS])
def test_vmap_over_all_inputs(name: str, backend: str) -> None:
    function, tensors = operator(name, backend)
    batches = several(tensors)
    expected = torch.stack([function(*inputs) for inputs in zip(*batches, strict=True)])
    assert_close(vmap(function)(*batches), expected)
    assert_close(vmap(function, randomness="same", chunk_size=2)(*batches), expected)


@every_operator
def test_vmap_over_one_input_on_another_axis(name: str) -> None:
    function, tensors = operator(name, "torch")
    first = several(tensors[:1])[0]
    others = tensors[1:]
    expected = torch.stack([function(one, *others) for one in first], dim=1)
    mapped = vmap(function, in_dims=(-1, *[None] * len(others)), out_dims=1)
    assert_close(mapped(first.movedim(0, -1), *others), expected)


@every_operator
def test_gradients_per_sample(name: str) -> None:
    function, tensors = operator(name, "torch")
    batches = several(tensors)
    weight = torch.randn_like(function(*tensors))

    def loss(*inputs: Tensor) -> Tensor:
        return (function(*inputs) * weight).sum()

    positions = tuple(range(len(tensors)))
    per_sample = vmap(grad(loss, argnums=positions))(*batches)
    for index, inputs in enumerate(zip(*batches, strict=True)):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        for ours, right in zip(per_sample, torch.autograd.grad(loss(*leaves), leaves), strict=True):
            assert_close(ours[index], right)


@but_deformable_attention
def test_forward_mode_agrees_with_reverse_mode(name: str) -> None:
    """<u, J t> = <J' u, t>, and the same from tangents mapped over."""
    function, tensors = operator(name, "torch")
    tangents = several(tensors)
    out, pull = vjp(function, *tensors)
    cotangent = torch.randn_like(out)
    pulled = pull(cotangent)
    pushed = vmap(lambda *t: jvp(function, tensors, t)[1])(*tangents)
    for index in range(3):
        one = tuple(tangent[index] for tangent in tangents)
        primal, tangent_out = jvp(function, tensors, one)
        assert_close(primal, out)
        assert_close(pushed[index], tangent_out)
        right = sum((a * b).sum() for a, b in zip(pulled, one, strict=True))
        assert_close((tangent_out * cotangent).sum(), right)


@but_deformable_attention
def test_jacobians(name: str) -> None:
    function, tensors = operator(name, "torch")

    def first(tensor: Tensor) -> Tensor:
        return function(tensor, *tensors[1:]).flatten()[:40]

    expected = torch.autograd.functional.jacobian(first, tensors[0])
    assert_close(jacrev(first)(tensors[0]), expected)
    assert_close(jacfwd(first)(tensors[0]), expected)
    vectorised = torch.autograd.functional.jacobian(first, tensors[0], vectorize=True)
    assert_close(vectorised, expected)


def test_a_position_bias_of_every_sample() -> None:
    """The bias is made inside the transform, too: MLP, table, maps and attention."""
    tensors, sizes = attention_call(torch.float64)
    tensors.pop("pool_bias")
    generator = torch.Generator().manual_seed(1)
    mlp = [
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((3, 12, 2), (3, 12), (3, HEADS, 12), (3, HEADS))
    ]

    def loss(*weights: Tensor) -> Tensor:
        bias = ops.position_bias(
            *weights, grid=GRID, pool_grid=POOL, pretrain_grid=(7, 7), backend="torch"
        )
        assert bias.dense().shape == (HEADS, LENGTH, POOL[0] * POOL[1])
        out = ops.aggregated_attention(**tensors, **sizes, pool_bias=bias, backend="torch")
        return out.square().sum()

    per_sample = vmap(grad(loss, argnums=(0, 1, 2, 3)))(*mlp)
    for index in range(3):
        leaves = [weight[index].clone().requires_grad_() for weight in mlp]
        right = torch.autograd.grad(loss(*leaves), leaves)
        assert_close([gradient[index] for gradient in per_sample], list(right))


@pytest.mark.parametrize("transform", ["vmap", "grad", "jvp"])
def test_what_a_transform_made_is_not_kept(transform: str) -> None:
    """Constants of sizes seen first inside of a transform serve calls outside of it."""
    grid, pool_grid = {"vmap": (9, 7), "grad": (9, 8), "jvp": (9, 11)}[transform], (4, 3)
    x = torch.randn(1, grid[0] * grid[1], 4, dtype=torch.float64)

    def call(x: Tensor) -> Tensor:
        return ops.gelu_pool(x, grid=grid, pool_grid=pool_grid, backend="torch")

    transforms: dict[str, Callable[[], Any]] = {
        "vmap": lambda: vmap(call)(x[None]),
        "grad": lambda: grad(lambda x: call(x).sum())(x),
        "jvp": lambda: jvp(call, (x,), (x,)),
    }
    transforms[transform]()
    leaf = x.clone().requires_grad_()
    call(leaf).sum().backward()
    matrix = grid_constants.pooling_matrix(grid[0], pool_grid[0], x.dtype, x.device)
    assert not torch._C._functorch.is_functorch_wrapped_tensor(matrix)
    assert_close(call(x), ops.gelu_pool(x, grid=grid, pool_grid=pool_grid, backend="reference"))


@pytest.mark.parametrize("backend", KERNELS)
@every_operator
def test_kernel_backends_name_the_way_out(name: str, backend: str) -> None:
    function, tensors = operator(name, backend)
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    out = function(*leaves)
    d_out = torch.ones(2, *out.shape, dtype=out.dtype)
    refused: list[Callable[[], Any]] = [
        lambda: grad(lambda first: function(first, *tensors[1:]).sum())(tensors[0]),
        lambda: vmap(grad(lambda first: function(first, *tensors[1:]).sum()))(tensors[0][None]),
        lambda: jvp(function, tensors, tensors),
        lambda: jacrev(function)(*tensors),
        lambda: jacfwd(function)(*tensors),
        lambda: torch.autograd.grad(out, leaves, d_out, is_grads_batched=True, retain_graph=True),
        lambda: vmap(lambda d: torch.autograd.grad(out, leaves, d, retain_graph=True))(d_out),
        lambda: torch.autograd.functional.jacobian(function, tensors, vectorize=True),
    ]
    for call in refused:
        with pytest.raises(NotImplementedError, match=rf"'{backend}'.*use backend 'torch'"):
            call()
    assert torch.autograd.grad(out.sum(), leaves[0])[0].isfinite().all()
