"""Graphs that leave this process: whichever backend was named, PyTorch's operators stand in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import transnext_ops as ops
from custom_op_calls import custom_op_calls
from operator_calls import operator_calls
from transnext_ops.grid_constants import length_scale
from transnext_ops.schema import OPERATORS

KERNELS = [name for name in ops.available_backends() if name not in ("torch", "cupy")]
KERNEL = KERNELS[-1]


class Call(torch.nn.Module):
    """One call of an operator on a named backend."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.function, self.tensors, self.keywords = operator_calls()[name]

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs, **self.keywords, backend=KERNEL)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_decomposition_gives_all_that_its_operator_gives(name: str) -> None:
    operator = getattr(torch.ops.transnext, name).default
    arguments = custom_op_calls(KERNEL)[name]
    expected, actual = operator(*arguments), ops.decompositions()[operator](*arguments)
    torch.testing.assert_close(actual, expected)
    for one, other in zip(_leaves(actual), _leaves(expected), strict=True):
        assert one.is_contiguous()
        assert one.dtype == other.dtype


def _leaves(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def test_a_program_of_a_kernel_backend_is_taken_apart() -> None:
    call = Call("conv_glu")
    program = torch.export.export(call, call.tensors, strict=False)
    assert any("transnext" in str(node.target) for node in program.graph.nodes)
    portable = program.run_decompositions(ops.decompositions())
    assert not any("transnext" in str(node.target) for node in portable.graph.nodes)
    torch.testing.assert_close(portable.module()(*call.tensors), call(*call.tensors))


@pytest.mark.filterwarnings("ignore")
def test_a_program_of_a_kernel_backend_becomes_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    call = Call("aggregated_attention")
    program = torch.export.export(call, call.tensors, strict=False)
    program = program.run_decompositions(ops.decompositions())
    path = tmp_path / "attention.onnx"
    torch.onnx.export(program, f=path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path)
    names = [value.name for value in session.get_inputs()]
    inputs = {name: x.numpy() for name, x in zip(names, call.tensors, strict=True)}
    (actual,) = session.run(None, inputs)
    torch.testing.assert_close(torch.from_numpy(actual), call(*call.tensors), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(operator_calls()))
def test_a_trace_holds_pytorchs_operators_whatever_is_named(name: str) -> None:
    call = Call(name)
    traced = torch.jit.trace(call, call.tensors)
    assert "transnext::" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(*call.tensors), call(*call.tensors))


class _LengthScale(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        grid = x.shape[2], x.shape[3]
        return length_scale(grid, 0, grid[0] * grid[1], torch.float32, x.device)


@pytest.mark.filterwarnings("ignore")
def test_openvino_counts_the_keys_of_global_attention(tmp_path: Path) -> None:
    """It took sums over the empty axis of a window of 0 for 1 where sizes are open."""
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    sizes = {2: torch.export.Dim("height", min=2, max=64), 3: torch.export.Dim("width", min=2)}
    x, path = torch.zeros(1, 3, 4, 6), tmp_path / "length.onnx"
    torch.onnx.export(
        _LengthScale(), (x,), path, dynamo=True, verbose=False, dynamic_shapes=(sizes,)
    )
    compiled = openvino.Core().compile_model(path, "CPU")
    for height, width in ((2, 2), (5, 9)):
        (actual,) = compiled([torch.zeros(1, 3, height, width).numpy()]).values()
        expected = torch.full((height * width,), float(height * width)).log()
        torch.testing.assert_close(torch.from_numpy(actual), expected)
