"""Gradients of what is cut out of one tensor are PyTorch's, and nothing copies them together."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import transnext_ops as ops
from operator_calls import GRID, LENGTH, POOL, POOL_LENGTH, WINDOW
from strategies import Numbers

HEADS, DIM = 2, 8
WIDTH = HEADS * DIM
BACKENDS = [name for name in ops.available_backends() if name != "cupy"]
backends = pytest.mark.parametrize("backend", BACKENDS)
kernels = pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "torch"])
Cut = Callable[[Tensor, list[tuple[int, ...]]], tuple[Tensor, ...]]


def by_views(packed: Tensor, shapes: list[tuple[int, ...]]) -> tuple[Tensor, ...]:
    lengths = [torch.Size(shape).numel() for shape in shapes]
    parts = packed.split(lengths, -1)
    return tuple(part.unflatten(-1, shape) for part, shape in zip(parts, shapes, strict=True))


def leaves(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Return the product to cut, the weight of what is pooled, a scale."""
    numbers = Numbers(2)
    packed = numbers.activation(2, LENGTH, 4 * WIDTH, dtype=dtype)
    weight = numbers.activation(WIDTH, 2 * WIDTH, dtype=dtype)
    scale = numbers.parameter(HEADS, dtype=dtype)
    return [each.requires_grad_() for each in (packed, weight, scale)]


def attend(cut: Cut, tensors: list[Tensor], backend: str) -> Tensor:
    """Attend to a window and to what is pooled, all of it cut out of two products."""
    packed, weight, scale = tensors
    heads = (HEADS, DIM)
    q, k, v, to_pool = cut(packed, [heads, heads, heads, (WIDTH,)])
    pooled = ops.gelu_pool(to_pool, grid=GRID, pool_grid=POOL, backend=backend)
    k_pool, v_pool = cut(pooled @ weight, [heads] * 2)
    return ops.aggregated_attention(
        q, k, v, k_pool, v_pool, grid=GRID, pool_grid=POOL, window_size=WINDOW, scale=scale,
        backend=backend,
    )  # fmt: skip


def attend_everywhere(cut: Cut, tensors: list[Tensor], backend: str) -> Tensor:
    """Attend globally: without a window, two arguments of the operator are missing."""
    packed, _, scale = tensors
    q, k, v = cut(packed[..., : 3 * WIDTH], [(HEADS, DIM)] * 3)
    return ops.global_attention(q, k, v, grid=GRID, scale=scale, backend=backend)


BOTH = pytest.mark.parametrize("call", [attend, attend_everywhere])


def gradients(call, cut: Cut, backend: str, tensors: list[Tensor] | None = None) -> list[Tensor]:
    tensors = leaves() if tensors is None else tensors
    call(cut, tensors, backend).square().sum().backward()
    return [each.grad for each in tensors if each.grad is not None]


class Names(TorchDispatchMode):
    """Collects the names of the operators called within."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.called.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@backends
@BOTH
def test_gradients_are_those_of_views(call, backend: str) -> None:
    for ours, theirs in zip(
        gradients(call, ops.unpack, backend), gradients(call, by_views, backend), strict=True
    ):
        assert torch.equal(ours, theirs)


@kernels
@BOTH
def test_nothing_copies_gradients_together(call, backend: str) -> None:
    expected = gradients(call, by_views, backend)
    with Names() as names:
        found = gradients(call, ops.unpack, backend)
    assert "aggregated_attention_backward_into" in names.called
    assert "aggregated_attention_backward" not in names.called
    assert not {"cat", "stack"} & set(names.called)
    assert all(map(torch.equal, found, expected))


@kernels
def test_gradients_are_written_where_they_are_wanted(backend: str) -> None:
    """What arrives at the cut is one tensor, of which the parts' gradients are views."""
    packed, weight, scale = leaves()
    seen: list[Tensor] = []

    def cut(tensor: Tensor, shapes: list[tuple[int, ...]]) -> tuple[Tensor, ...]:
        parts = ops.unpack(tensor, shapes)
        for part in parts:
            part.register_hook(seen.append)
        return parts

    attend(cut, [packed, weight, scale], backend).sum().backward()
    storages = [each.untyped_storage().data_ptr() for each in seen]
    assert len(seen) == 6
    assert len(set(storages)) == 2  # of the tokens' product and of the pooled one


def assert_gradients_agree(call, backend: str) -> None:
    """Compare the gradients of a call whose parts are cut out with those by plain views."""
    found, expected = (gradients(call, cut, backend) for cut in (ops.unpack, by_views))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@kernels
def test_another_use_of_a_part_adds_to_its_gradient(backend: str) -> None:
    def twice(cut: Cut, tensors: list[Tensor], backend: str) -> Tensor:
        def cut_and_use(tensor: Tensor, shapes: list[tuple[int, ...]]) -> tuple[Tensor, ...]:
            parts = cut(tensor, shapes)
            used.append(parts[1].flatten(2))
            return parts

        used: list[Tensor] = []
        out = attend(cut_and_use, tensors, backend).flatten(2)
        pooled = ops.gelu_pool(used[0], grid=GRID, pool_grid=POOL, backend=backend)
        return torch.cat((out, 3 * used[0], pooled, used[1]), 1)

    assert_gradients_agree(twice, backend)


@kernels
def test_two_operators_do_not_write_into_the_same_place(backend: str) -> None:
    def shared(cut: Cut, tensors: list[Tensor], backend: str) -> Tensor:
        packed, _, scale = tensors
        q, k, v = cut(packed[..., : 3 * WIDTH], [(HEADS, DIM)] * 3)
        outs = [
            ops.global_attention(q, k, v, grid=GRID, scale=times * scale, backend=backend)
            for times in (1, 2)
        ]
        return torch.cat(outs)

    assert_gradients_agree(shared, backend)


@kernels
def test_a_part_that_nothing_uses_has_a_gradient_of_zero(backend: str) -> None:
    def partly(cut: Cut, tensors: list[Tensor], backend: str) -> Tensor:
        unused, q, k, v = cut(tensors[0], [(HEADS, DIM)] * 4)
        del unused
        return ops.global_attention(q, k, v, grid=GRID, scale=tensors[2], backend=backend)

    found, expected = (gradients(partly, cut, backend) for cut in (ops.unpack, by_views))
    assert all(map(torch.equal, found, expected))


@kernels
def test_a_graph_is_used_again_after_a_part_of_it_was(backend: str) -> None:
    """Gradients that were handed out stay what they are."""
    tensors = leaves()
    parts: list[Tensor] = []

    def cut(tensor: Tensor, shapes: list[tuple[int, ...]]) -> tuple[Tensor, ...]:
        found = ops.unpack(tensor, shapes)
        parts.extend(found)
        return found

    loss = attend(cut, tensors, backend).square().sum()
    of_parts = torch.autograd.grad(loss, parts[:2], retain_graph=True)
    kept = [each.clone() for each in of_parts]
    first = torch.autograd.grad(loss, tensors, retain_graph=True)
    copies = [each.clone() for each in first]
    second = torch.autograd.grad(loss, tensors)
    expected = gradients(attend, by_views, backend)
    for found in (first, copies, second):
        assert all(map(torch.equal, found, expected))
    assert all(map(torch.equal, of_parts, kept))


def test_second_derivatives() -> None:
    packed, weight, scale = (each.detach() for each in leaves())

    def call(packed: Tensor) -> Tensor:
        return attend(ops.unpack, [packed, weight, scale], "torch")

    small = packed.requires_grad_()
    assert torch.autograd.gradgradcheck(call, (small,), fast_mode=True)


@kernels
@BOTH
def test_gradients_are_numerical_ones(call, backend: str) -> None:
    tensors = leaves()
    used = tensors if call is attend else [tensors[0], tensors[2]]

    def function(*given: Tensor) -> Tensor:
        three = given if call is attend else (given[0], tensors[1], given[1])
        return call(ops.unpack, list(three), backend)

    assert torch.autograd.gradcheck(function, used, fast_mode=True, atol=1e-4)


def test_a_recorded_cut_is_views(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = leaves()[0]

    def first(x: Tensor) -> Tensor:
        return ops.unpack(x, [(WIDTH,)] * 4)[0]

    assert "Unpack" in str(first(packed).grad_fn)
    assert "PythonOp" not in str(torch.jit.trace(first, packed).graph)
    tangents = torch.func.jvp(first, (packed.detach(),), (packed.detach(),))
    assert torch.equal(*tangents)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert "Unpack" not in str(first(packed).grad_fn)


def test_parts_must_be_all_of_the_axis() -> None:
    with pytest.raises(ValueError, match=re.escape("got parts of [4, 4], 8 in all, needs the 9")):
        ops.unpack(torch.zeros(2, 9), [(4,), (2, 2)])


@kernels
def test_pooled_tokens_without_a_gradient(backend: str) -> None:
    """Some parts of two products, of which one needs no gradient."""
    packed, _, scale = leaves()
    q, k, v, _ = ops.unpack(packed, [(HEADS, DIM)] * 4)
    k_pool, v_pool = ops.unpack(torch.ones(2, POOL_LENGTH, 2 * WIDTH).double(), [(HEADS, DIM)] * 2)
    out = ops.aggregated_attention(
        q, k, v, k_pool, v_pool, grid=GRID, pool_grid=POOL, window_size=WINDOW, scale=scale,
        backend=backend,
    )  # fmt: skip
    out.sum().backward()
    assert packed.grad is not None
    assert torch.equal(packed.grad[..., 3 * WIDTH :], torch.zeros(2, LENGTH, WIDTH).double())
