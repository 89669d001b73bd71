"""An operator is declared once: what follows from its record, and a toy operator that shows it."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tools import cpp_stub
from transnext_ops import _cpp, schema
from transnext_ops.backends import cpp_backend, reference_backend
from transnext_ops.dispatch import custom_operators, eager
from transnext_ops.schema import Operator, Output, Role, Size, TensorArgument

ALL = {**schema.OPERATORS, **schema.FUSED_BLOCKS}

SCALED = Operator(
    "scaled",
    (
        TensorArgument("x", "B N C", Role.ACTIVATION),
        TensorArgument("scale", "C", Role.PARAMETER),
    ),
    (Size("grid", "grid"),),
    (Output("out", "B N C", like="x"),),
)
# The one line that an optional tensor takes:
SHIFT = TensorArgument("shift", "C", Role.PARAMETER, optional=True)
SHIFTED = dataclasses.replace(SCALED, tensors=(*SCALED.tensors, SHIFT))


class ToyBackend:
    """Kernels of the toy operators, and what they were called with."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.calls: list[Any] = []

    def kernel(self, name: str, backend: str) -> Callable[..., Any]:
        assert backend == "toy"
        return {"scaled": self.forward, "scaled_backward": self.backward}[name]

    def forward(self, *arguments: Any) -> Tensor:
        call = self.operator.Arguments(*arguments)
        self.calls.append(call)
        out = call.x.float() * call.scale
        if getattr(call, "shift", None) is not None:
            out = out + call.shift
        return out.to(call.x.dtype)

    def backward(self, *arguments: Any) -> list[Tensor | None]:
        call = self.operator.BackwardArguments(*arguments)
        self.calls.append(call)
        d_out = call.d_out.float()
        gradients = {
            "x": (d_out * call.scale).to(call.x.dtype),
            "scale": (d_out * call.x.float()).sum((0, 1)),
            "shift": d_out.sum((0, 1)),
        }
        names = [self.operator.tensors[i].name for i in self.operator.differentiable]
        return [
            gradients[name] if needed else None
            for name, needed in zip(names, call.needs, strict=True)
        ]


_namespaces = itertools.count()


class Toy:
    """A toy operator in a namespace of its own."""

    def __init__(self, operator: Operator) -> None:
        self.backend = ToyBackend(operator)
        self.library = torch.library.Library(f"transnext_toy{next(_namespaces)}", "DEF")
        self.paths = custom_operators.define(self.library, operator, self.backend.kernel)
        self.packet = self.paths.packet

    def __call__(self, *arguments: Any) -> Tensor:
        return eager.call(self.paths, *arguments, (2, 2), "toy")


@pytest.fixture
def toy():
    made = Toy(SHIFTED)
    yield made
    made.library._destroy()


def inputs() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 4, 3), torch.rand(3), torch.randn(3)]


def leaves() -> list[Tensor]:
    return [tensor.requires_grad_() for tensor in inputs()]


def test_an_optional_tensor_is_one_line() -> None:
    head, tail = "(Tensor x, Tensor scale", "SymInt[2] grid"
    assert SCALED.schema == f"{head}, {tail}, str backend) -> Tensor"
    assert SHIFTED.schema == f"{head}, Tensor? shift, {tail}, str backend) -> Tensor"
    assert SCALED.backward_schema == (
        f"(Tensor d_out, Tensor x, Tensor scale, {tail}, bool[2] needs, str backend) -> Tensor[]"
    )
    assert SHIFTED.backward_schema == (
        f"(Tensor d_out, Tensor x, Tensor scale, Tensor? shift, {tail}, bool[3] needs, "
        "str backend) -> Tensor[]"
    )
    assert SHIFTED.autocast == (True, False, False)
    assert SHIFTED.Arguments._fields == ("x", "scale", "shift", "grid")
    assert dict(SHIFTED.compiled_signature)["shift"] == "optional tensor"
    assert dict(SHIFTED.compiled_backward_signature)["d_shift"] == "optional tensor"


def test_the_toy_operator_passes_opcheck(toy) -> None:
    x, scale, shift = leaves()
    for last in (shift, None):
        torch.library.opcheck(toy.packet.default, (x, scale, last, (2, 2), "toy"))


@pytest.mark.parametrize("dispatched", [False, True])
def test_the_toy_operator_has_its_gradients(toy, dispatched: bool) -> None:
    x, scale, shift = leaves()
    call = toy.packet if dispatched else None
    out = call(x, scale, shift, (2, 2), "toy") if call else toy(x, scale, shift)
    weights = torch.randn_like(out)
    actual = torch.autograd.grad(out, (x, scale, shift), weights)
    expected = torch.autograd.grad(x * scale + shift, (x, scale, shift), weights)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dispatched", [False, True])
def test_only_gradients_that_are_needed_are_asked_for(toy, dispatched: bool) -> None:
    x, scale, shift = inputs()
    shift.requires_grad_()
    out = (toy.packet(x, scale, shift, (2, 2), "toy") if dispatched else toy(x, scale, shift)).sum()
    out.backward()
    assert toy.backend.calls[-1].needs == [False, False, True]
    torch.testing.assert_close(shift.grad, torch.full((3,), 8.0))
    out = toy(x.requires_grad_(), scale, None)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert toy.backend.calls[-1].needs == [True, False, False]
    torch.testing.assert_close(gradient, scale.expand(2, 4, 3))


def test_autocast_casts_the_activations_alone(toy) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = toy.packet(*inputs(), (2, 2), "toy")
    seen = toy.backend.calls[-1]
    assert out.dtype == seen.x.dtype == torch.bfloat16
    assert seen.scale.dtype == seen.shift.dtype == torch.float32


def test_fake_tensors_have_the_shapes_of_the_record(toy) -> None:
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(tensor) for tensor in inputs()]
        out = toy.packet(*fakes, (2, 2), "toy")
    assert (out.shape, out.dtype) == ((2, 4, 3), torch.float32)
    assert toy.backend.calls == []


def test_it_compiles(toy) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(toy, fullgraph=True, backend="aot_eager")
    x, scale, shift = leaves()
    torch.testing.assert_close(compiled(x, scale, shift), x * scale + shift)


def test_a_record_with_an_unknown_axis_is_refused() -> None:
    wrong = dataclasses.replace(SCALED, outputs=(Output("out", "B N D", like="x"),))
    with pytest.raises(ValueError, match="scaled: got the axis 'D', needs one"):
        _ = wrong.allocate


@pytest.mark.parametrize("name", ALL)
def test_compiled_functions_take_what_the_record_says(name: str) -> None:
    operator = ALL[name]
    signatures = {name: operator.compiled_signature}
    if operator.has_backward:
        signatures[f"{name}_backward"] = operator.compiled_backward_signature
    for function, signature in signatures.items():
        declared = re.search(r"\((.*)\) -> None", getattr(_cpp, function).__doc__)
        assert declared is not None
        count = len(re.findall(r"\w+: ", declared[1]))
        assert count == len(signature), function
        named = re.findall(r"(\w+): ", declared[1])
        if not named[0].startswith("arg"):
            assert named == [argument for argument, _ in signature]


def test_the_stub_file_is_the_record_s() -> None:
    assert cpp_stub.STUB.read_text() == cpp_stub.text(), "run python -m tools.cpp_stub"


@pytest.mark.parametrize("backend", [cpp_backend, reference_backend])
@pytest.mark.parametrize("name", schema.OPERATORS)
def test_kernel_backends_have_every_operator(name: str, backend: Any) -> None:
    assert callable(getattr(backend, name))
    assert callable(getattr(backend, f"{name}_backward"))
