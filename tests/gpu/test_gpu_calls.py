"""How the CUDA backends behave in a program: streams, graphs, waiting, memory, determinism."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("transnext_ops._cpp")

import transnext_ops as ops
from agreement import edge
from operator_calls import operator_calls

OPERATORS = sorted(operator_calls())
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def step(name: str, backend: str, dtype: torch.dtype = torch.float32) -> Callable[[], list[Tensor]]:
    """Return a function that calls an operator forward and backward: output, then gradients."""
    function, tensors, keywords = operator_calls(dtype)[name]
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    d_out: list[Tensor] = []

    def run() -> list[Tensor]:
        out = function(*leaves, **keywords, backend=backend)
        if not d_out:
            d_out.append(torch.where(out.isfinite(), torch.randn_like(out), 0.0))
        return [out.detach(), *torch.autograd.grad(out, leaves, d_out[0])]

    return run


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", OPERATORS)
def test_auto_takes_the_compiled_kernels(name, cuda) -> None:
    text = ops.explain_backend(name.removesuffix("_table"), device=cuda)
    assert "cpp" in text.splitlines()[0], text


@pytest.mark.parametrize("name", OPERATORS)
def test_a_call_works_on_the_current_stream(name, backend, cuda) -> None:
    run = step(name, backend)
    expected = run()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)  # work before it: whoever does not wait reads too early
        run = step(name, backend)
        actual = run()
        stream.synchronize()
    torch.cuda.synchronize()
    assert_same(actual[:1], expected[:1])


@pytest.mark.parametrize("name", OPERATORS)
def test_a_call_can_be_captured_in_a_graph(name, backend) -> None:
    """Capture fails on what waits or allocates outside PyTorch's pool; a replay is the call."""
    run = step(name, backend)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            expected = run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        actual = run()
    for result in actual:
        result.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    assert_same(actual, expected)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_call_does_not_wait_for_the_gpu(name, backend) -> None:
    run = step(name, backend)
    run()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(2_000_000_000)  # about a second
        done = torch.cuda.Event()
        run()
        done.record()
        assert not done.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_deterministic_algorithms_give_the_same_bits(name, dtype, backend) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        run = step(name, backend, dtype)
        first = run()
        for _ in range(5):
            assert all(torch.equal(a, b) for a, b in zip(run(), first, strict=True))
    finally:
        torch.use_deterministic_algorithms(False)


def test_attention_holds_no_tensor_of_queries_times_keys(backend) -> None:
    case = edge(grid=(56, 56), pool_grid=(14, 14), heads=4, batch=4, dtype=torch.float16)
    inputs = case.tensors()
    bias = inputs.pop("pool_bias")
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in inputs.items()}
    sizes = {"grid": case.grid, "pool_grid": case.pool_grid, "window_size": case.window_size}

    def run() -> None:
        out = ops.aggregated_attention(**leaves, pool_bias=bias, **sizes, backend=backend)
        torch.autograd.grad(out, list(leaves.values()), torch.ones_like(out))

    run()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    peak = torch.cuda.max_memory_allocated() - before
    keys = case.window_size**2 + case.pool_length
    one_matrix = case.batch * case.heads * case.length * keys * 2
    assert peak < one_matrix


def test_more_than_two_to_the_31_elements(backend) -> None:
    """The last image of a batch that 32-bit indices do not reach is as the image alone."""
    free, _ = torch.cuda.mem_get_info()
    if free < 24 * 2**30:
        pytest.skip(f"needs 24 GiB of free GPU memory, has {free / 2**30:.0f}")
    hidden, grid = 512, (128, 128)
    batch = 2**31 // (2 * hidden * grid[0] * grid[1]) + 2
    x = torch.randn(batch, grid[0] * grid[1], 2 * hidden, device="cuda", dtype=torch.float16)
    weight = torch.randn(hidden, 1, 3, 3, device="cuda")
    out = ops.conv_glu(x, weight, None, grid=grid, backend=backend)
    assert torch.equal(out[-1:], ops.conv_glu(x[-1:], weight, None, grid=grid, backend=backend))
    pooled = ops.gelu_pool(x, grid=grid, pool_grid=(16, 16), backend=backend)
    alone = ops.gelu_pool(x[-1:], grid=grid, pool_grid=(16, 16), backend=backend)
    assert torch.equal(pooled[-1:], alone)


def test_tensors_of_two_devices_are_refused(cuda) -> None:
    x, weight = torch.zeros(1, 4, 16, device=cuda), torch.zeros(8, 1, 3, 3)
    with pytest.raises(ValueError, match="weight"):
        ops.conv_glu(x, weight, None, grid=(2, 2))
