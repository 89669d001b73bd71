"""Calls past PyTorch's dispatcher: the same results, none where something sees operators."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import transnext_ops as ops
from operator_calls import normed_and_total, operator_calls
from transnext_ops.dispatch import eager

GRID, POOL_GRID = (4, 5), (2, 2)


def attention_inputs() -> list[torch.Tensor]:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 20, 2, 8) for _ in range(3))
    k_pool, v_pool = (torch.randn(2, 4, 2, 8) for _ in range(2))
    return [q, k, v, k_pool, v_pool, torch.rand(2)]


def attend(q, k, v, k_pool, v_pool, scale):
    return ops.aggregated_attention(
        q, k, v, k_pool, v_pool,
        grid=GRID, pool_grid=POOL_GRID, window_size=3, scale=scale, backend="cpp",
    )  # fmt: skip


def gate(x, weight, bias):
    return ops.conv_glu(x, weight, bias, grid=GRID, backend="cpp")


def gate_inputs() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, 20, 12), torch.randn(6, 1, 3, 3), torch.randn(6)]


def pool(x):
    return ops.gelu_pool(x, grid=GRID, pool_grid=POOL_GRID, backend="cpp")


def window(q, k, v):
    attn = ops.window_qk(q, k, grid=GRID, window_size=3, backend="cpp").softmax(-1)
    return ops.window_av(attn, v, grid=GRID, window_size=3, backend="cpp")


def window_inputs() -> list[torch.Tensor]:
    torch.manual_seed(2)
    return [torch.randn(2, 2, 20, 8) for _ in range(3)]


def table(*mlp):
    bias = ops.position_bias(*mlp, grid=GRID, pool_grid=POOL_GRID, pretrain_grid=GRID)
    return bias.table


def table_inputs() -> list[torch.Tensor]:
    torch.manual_seed(3)
    return [torch.randn(16, 2), torch.randn(16), torch.randn(2, 16), torch.randn(2)]


CALLS = {
    "aggregated_attention": (attend, attention_inputs),
    "conv_glu": (gate, gate_inputs),
    "gelu_pool": (pool, lambda: gate_inputs()[:1]),
    "add_layer_norm": (normed_and_total, lambda: list(operator_calls()["add_layer_norm"][1])),
    "window": (window, window_inputs),
    "position_bias": (table, table_inputs),
}


class Seen(TorchDispatchMode):
    """Remembers the package's operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "transnext":
            self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def dispatched(monkeypatch) -> None:
    monkeypatch.setattr(eager, "_observed", lambda: True)


@pytest.mark.parametrize("name", CALLS)
def test_values_and_gradients_are_those_of_the_operators(name, monkeypatch):
    function, inputs = CALLS[name]

    def run():
        leaves = [tensor.requires_grad_() for tensor in inputs()]
        out = function(*leaves)
        torch.manual_seed(4)
        return out, *torch.autograd.grad(out, leaves, torch.randn_like(out))

    plain = run()
    dispatched(monkeypatch)
    for ours, theirs in zip(plain, run(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_plain_calls_pass_the_dispatcher_by(monkeypatch):
    leaves = [tensor.requires_grad_() for tensor in attention_inputs()]
    assert type(attend(*leaves).grad_fn).__name__ == "AggregatedAttentionBackward"
    dispatched(monkeypatch)
    assert type(attend(*leaves).grad_fn).__name__ != "AggregatedAttentionBackward"


@pytest.mark.parametrize("name", CALLS)
def test_dispatch_modes_see_the_operators(name):
    function, inputs = CALLS[name]
    leaves = [tensor.requires_grad_() for tensor in inputs()]
    with Seen() as seen:
        function(*leaves).sum().backward()
    forward = [name for name in seen.names if not name.endswith("_backward")]
    assert forward
    assert sorted(seen.names) == sorted(forward + [f"{name}_backward" for name in forward])


def test_the_profiler_sees_the_operators():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        attend(*attention_inputs())
    assert "transnext::aggregated_attention" in {event.key for event in profile.key_averages()}


def test_gradients_by_function_transforms_are_refused_clearly():
    x, weight, bias = gate_inputs()
    with pytest.raises(NotImplementedError, match=r"'cpp'.*torch\.func.*use backend 'torch'"):
        torch.func.grad(lambda weight: gate(x, weight, bias).sum())(weight)


def test_function_transforms_leave_other_tensors_alone():
    x, weight, bias = gate_inputs()
    gradient = torch.func.grad(lambda factor: (factor * gate(x, weight, bias)).sum())(torch.ones(1))
    torch.testing.assert_close(gradient, gate(x, weight, bias).sum()[None])
    batched = torch.func.vmap(lambda x: gate(x, weight, bias))(x[:, None])
    torch.testing.assert_close(batched[:, 0], gate(x, weight, bias))


@pytest.mark.parametrize("recorded", [False, True])
def test_tangents_are_refused_and_not_lost(recorded):
    x, weight, bias = gate_inputs()
    with forward_ad.dual_level(), torch.set_grad_enabled(recorded):
        gate(x, weight, bias)  # has none
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            gate(dual, weight, bias)
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda x: gate(x, weight, bias), (x,), (x,))


def test_subclasses_are_not_plain():
    class Marked(torch.Tensor):
        pass

    x, weight, bias = gate_inputs()
    assert eager._is_plain((x, weight, bias, GRID, "cpp"))
    assert not eager._is_plain((x.as_subclass(Marked), weight, bias, GRID, "cpp"))
    assert not eager._is_plain((x.to("meta"), weight, bias, GRID, "cpp"))


def test_a_pytorch_without_these_states_gets_the_operators(monkeypatch):
    assert not eager._observed()
    x = gate_inputs()[0].requires_grad_()
    expected = torch.autograd.grad(pool(x).sum(), x)
    monkeypatch.delattr(torch._C, "_len_torch_dispatch_stack")
    monkeypatch.delattr(torch._C._functorch, "get_interpreter_stack")
    monkeypatch.setattr(eager, "_observed", eager._find_observers())
    assert eager._observed()
    assert torch.equal(*torch.autograd.grad(pool(x).sum(), x), *expected)


def test_second_derivatives_are_refused():
    x = gate_inputs()[0].requires_grad_()
    (first,) = torch.autograd.grad(pool(x).square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        first.sum().backward()


def test_a_changed_map_is_looked_at_again():
    bias = ops.position_bias(*table_inputs(), grid=GRID, pool_grid=POOL_GRID, pretrain_grid=GRID)
    rows = bias.row_map.clone()
    ops.PositionBias(bias.table, rows, bias.col_map, bias.col_weights)
    rows[0, 0] = bias.table.shape[1]
    with pytest.raises(ValueError, match="row_map"):
        ops.PositionBias(bias.table, rows, bias.col_map, bias.col_weights)
