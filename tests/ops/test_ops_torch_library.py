"""The operators as torch citizens: opcheck, compile, export, autocast, double backward, fakes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import transnext_ops as ops
from custom_op_calls import custom_op_calls
from operator_calls import GRID, attention_call, operator_calls

KERNELS = [name for name in ops.available_backends() if name not in ("torch", "cupy")]
BACKENDS = ["torch", *KERNELS]
OPERATORS = list(operator_calls())
operators = pytest.mark.parametrize("name", OPERATORS)
# All kernel backends are the same node in a graph, so one of them stands for all where it is slow.
COMPILED = ["torch", KERNELS[-1]]
backends = pytest.mark.parametrize("backend", BACKENDS)
kernels = pytest.mark.parametrize("backend", KERNELS)


def with_leaves(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().requires_grad_() for tensor in tensors)


@kernels
@pytest.mark.parametrize("name", list(custom_op_calls("reference")))
def test_opcheck(name: str, backend: str) -> None:
    arguments = custom_op_calls(backend)[name]
    differentiable = "_backward" not in name
    arguments = tuple(
        value.detach().requires_grad_()
        if differentiable and isinstance(value, Tensor) and value.is_floating_point()
        else value
        for value in arguments
    )
    if name == "position_bias_table":  # coordinates are constants
        arguments = (arguments[0].detach(), arguments[1].detach(), *arguments[2:])
    checks = {"test_utils": ("test_schema", "test_faketensor")} if name.endswith("_into") else {}
    torch.library.opcheck(getattr(torch.ops.transnext, name).default, arguments, **checks)


def reference_result(function, tensors, keywords, backend):
    inputs = with_leaves(tensors)
    out = function(*inputs, **keywords, backend=backend)
    return out, torch.autograd.grad(out.nan_to_num(neginf=0.0).sum(), inputs)


# Tracing plain PyTorch with symbolic sizes takes minutes in all; two operators stand for it.
COMPILE_CASES = [
    (name, backend, dynamic)
    for name in OPERATORS
    for backend in COMPILED
    for dynamic in (False, True)
    if not dynamic or backend != "torch" or name in ("conv_glu", "gelu_pool")
]


@pytest.mark.parametrize(("name", "backend", "dynamic"), COMPILE_CASES)
def test_compile_without_graph_breaks(name: str, backend: str, dynamic: bool) -> None:
    function, tensors, keywords = operator_calls()[name]
    expected, expected_gradients = reference_result(function, tensors, keywords, backend)

    def call(*inputs: Tensor) -> Tensor:
        return function(*inputs, **keywords)

    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    inputs = with_leaves(tensors)
    with ops.use_backend(backend):
        out = compiled(*inputs)
    torch.testing.assert_close(out, expected)
    gradients = torch.autograd.grad(out.nan_to_num(neginf=0.0).sum(), inputs)
    torch.testing.assert_close(gradients, expected_gradients)


def test_compiled_code_follows_a_change_of_backend() -> None:
    function, tensors, keywords = operator_calls()["gelu_pool"]
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: function(x, **keywords), fullgraph=True, backend="aot_eager")
    seen = []
    for backend in ("torch", "reference"):
        with ops.use_backend(backend):
            graph = torch._dynamo.explain(lambda x: function(x, **keywords))(*tensors)
            seen.append("transnext" in str(graph.graphs[0].graph))
            torch.testing.assert_close(compiled(*tensors), function(*tensors, **keywords))
    assert seen == [False, True]


@pytest.mark.parametrize("backend", COMPILED)
def test_inductor_generates_code(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One real code generation, forward and backward (the others stop at the captured graph)."""
    monkeypatch.setenv("CI", "true")  # where Inductor calls no operator that could be taken apart
    function, tensors, keywords = operator_calls()["conv_glu"]
    expected, expected_gradients = reference_result(function, tensors, keywords, backend)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *inputs: function(*inputs, **keywords, backend=backend), fullgraph=True
    )
    inputs = with_leaves(tensors)
    out = compiled(*inputs)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), inputs), expected_gradients)


@pytest.mark.parametrize("backend", COMPILED)
@operators
@pytest.mark.parametrize("strict", [False, True])
def test_export(name: str, backend: str, strict: bool) -> None:
    function, tensors, keywords = operator_calls()[name]

    class Module(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return function(*inputs, **keywords, backend=backend)

    program = torch.export.export(Module(), tensors, strict=strict)
    targets = {str(node.target) for node in program.graph.nodes}
    assert any("transnext" in target for target in targets) == (backend != "torch")
    torch.testing.assert_close(
        program.module()(*tensors), function(*tensors, **keywords, backend=backend)
    )


@backends
@operators
def test_autocast_casts_activations_and_keeps_parameters(name: str, backend: str) -> None:
    function, tensors, keywords = operator_calls()[name]
    expected = function(*tensors, **keywords, backend=backend)
    inputs = with_leaves(tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = function(*inputs, **keywords, backend=backend)
    if name in ("position_bias", "add_layer_norm"):  # the latter with its sum
        assert out.dtype == torch.float32
    else:
        assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)
    out.nan_to_num(neginf=0.0).sum().backward()
    assert all(tensor.grad.dtype == torch.float32 for tensor in inputs)


@kernels
def test_autocast_of_a_custom_op_called_directly(backend: str) -> None:
    x, weight, bias = operator_calls()["conv_glu"][1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = torch.ops.transnext.conv_glu(x, weight, bias, None, GRID, backend)
    assert out.dtype == torch.bfloat16


def test_autocast_leaves_float64_alone() -> None:
    function, tensors, keywords = operator_calls(torch.float64)["gelu_pool"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert function(*tensors, **keywords).dtype == torch.float64


@operators
def test_torch_backend_is_differentiable_twice(name: str) -> None:
    function, tensors, keywords = operator_calls(torch.float64)[name]
    if name == "window_qk":  # finite differences cannot take -inf

        def call(*inputs: Tensor) -> Tensor:
            return function(*inputs, **keywords, backend="torch").nan_to_num(neginf=0.0)

    else:

        def call(*inputs: Tensor) -> Tensor:
            return function(*inputs, **keywords, backend="torch")

    inputs = with_leaves(tensors)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@kernels
def test_kernel_backends_refuse_second_derivatives_clearly(backend: str) -> None:
    function, tensors, keywords = operator_calls()["conv_glu"]
    inputs = with_leaves(tensors)
    out = function(*inputs, **keywords, backend=backend)
    (gradient,) = torch.autograd.grad(out.sum(), inputs[:1], create_graph=True)
    with pytest.raises(NotImplementedError, match="use backend 'torch'"):
        gradient.sum().backward()


@backends
@operators
def test_fake_tensors(name: str, backend: str) -> None:
    """Shapes and dtypes come out under FakeTensorMode, and no fake constant stays behind."""
    function, tensors, keywords = operator_calls()[name]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = [mode.from_tensor(tensor) for tensor in tensors]
        fake_out = function(*fakes, **keywords, backend=backend)
    out = function(*tensors, **keywords, backend=backend)
    assert type(out) is Tensor
    assert fake_out.shape == out.shape
    assert fake_out.dtype == out.dtype


@backends
def test_export_with_a_dynamic_batch(backend: str) -> None:
    tensors, keywords = attention_call()
    bias = tensors.pop("pool_bias").dense()
    names = ("q", "k", "v", "k_pool", "v_pool")
    activations = tuple(tensors.pop(name).contiguous() for name in names)

    class Module(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return ops.aggregated_attention(
                *inputs, **tensors, pool_bias=bias, **keywords, backend=backend
            )

    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(Module(), activations, dynamic_shapes=(({0: batch},) * 5,))
    larger = tuple(torch.cat((tensor, tensor, tensor)) for tensor in activations)
    torch.testing.assert_close(program.module()(*larger), Module()(*larger))


@backends
def test_inference_mode_and_later_training(backend: str) -> None:
    """Shared constants made in inference mode must serve autograd afterwards."""
    function, tensors, keywords = operator_calls()["aggregated_attention"]
    keywords = {**keywords, "grid": (4, 5)}
    keywords["pool_bias"] = None
    with torch.inference_mode():
        function(*tensors, **keywords, backend=backend)
    inputs = with_leaves(tensors)
    function(*inputs, **keywords, backend=backend).sum().backward()
    assert all(tensor.grad is not None for tensor in inputs)
