"""The compiled kernels and threads: the same bits every time, several Python threads, forks."""

from __future__ import annotations

import functools
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import torch

from strategies import Numbers
from transnext_ops import fused_blocks
from transnext_ops.backends import cpp_backend

_cpp = pytest.importorskip("transnext_ops._cpp")

GRID, POOL, HEADS, DIM = (24, 22), (3, 5), 2, 24


def attention_arguments(batch: int = 2) -> tuple:
    numbers = Numbers(3)

    def tokens(count: int) -> torch.Tensor:
        return numbers.activation(batch, count, HEADS, DIM, dtype=torch.float32, layout="packed")

    def parameter(*shape: int) -> torch.Tensor:
        return numbers.parameter(*shape, dtype=torch.float32, scale=0.3)

    length, pooled = GRID[0] * GRID[1], POOL[0] * POOL[1]
    generator = torch.Generator().manual_seed(0)
    row_map = torch.randint(0, 7, (GRID[0], POOL[0]), dtype=torch.int32, generator=generator)
    col_map = torch.randint(0, 9, (GRID[1], POOL[1], 1), dtype=torch.int32, generator=generator)
    return (
        tokens(length), tokens(length), tokens(length), tokens(pooled), tokens(pooled),
        parameter(HEADS).abs() + 1, parameter(HEADS, DIM), parameter(HEADS, 9),
        parameter(HEADS, 7, 9), row_map, col_map, None,
        parameter(HEADS, DIM, 9), parameter(HEADS, 9), GRID, POOL, 3,
    )  # fmt: skip


@functools.cache
def inputs() -> dict[str, Any]:
    """Return the inputs of :func:`everything`, made once: a forked child must not make any, since
    torch's own thread pool does not survive a fork."""
    numbers = Numbers(4)
    x = numbers.activation(2, 400, 80, dtype=torch.float32)
    weight = numbers.parameter(40, 1, 3, 3, dtype=torch.float32)
    mlp = [numbers.parameter(*s, dtype=torch.float32) for s in ((30, 2), (30,), (2, 30), (2,))]
    return {
        "attention": attention_arguments(),
        "x": x,
        "weight": weight,
        "bias": weight[:, 0, 0, 0],
        "x_bias": numbers.parameter(80, dtype=torch.float32),
        "mlp": (torch.linspace(-1, 1, 11), torch.linspace(-1, 1, 21), *mlp),
    }


def everything() -> list[torch.Tensor]:
    """Return the results of all operators, forward and backward, on fixed inputs."""
    given = inputs()
    arguments, x, weight, mlp = (given[name] for name in ("attention", "x", "weight", "mlp"))
    out, log_sum_exp = cpp_backend.aggregated_attention(*arguments)
    gradients = cpp_backend.aggregated_attention_backward(
        out, out, log_sum_exp, *arguments, [True] * 11
    )
    glu = cpp_backend.conv_glu(x, weight, None, given["x_bias"], (20, 20))
    glu_gradients = cpp_backend.conv_glu_backward(
        glu, x, weight, given["bias"], given["x_bias"], (20, 20), [True] * 4
    )
    pooled = cpp_backend.gelu_pool(x, (20, 20), (7, 3))
    d_x = cpp_backend.gelu_pool_backward(pooled, x, (20, 20), (7, 3))
    q, k = (t.transpose(1, 2) for t in arguments[:2])
    attn = cpp_backend.window_qk(q, k, None, GRID, 3)
    window = cpp_backend.window_qk_backward(attn, q, k, GRID, 3, [True] * 3)
    table = cpp_backend.position_bias_table(*mlp)
    mlp_gradients = cpp_backend.position_bias_table_backward(table, *mlp, [True] * 4)
    return [
        out, log_sum_exp, *gradients, glu, *glu_gradients, pooled, d_x, attn, *window, table,
        *mlp_gradients,
    ]  # fmt: skip


def same(results: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return all(
        torch.equal(a.view(torch.int32), b.view(torch.int32))
        for a, b in zip(results, expected, strict=True)
    )


@pytest.fixture
def threads():
    """A function that sets torch's thread count, put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_bits_are_the_same_every_time_for_a_thread_count(threads, count: int) -> None:
    threads(count)
    expected = everything()
    for _ in range(3):
        assert same(everything(), expected)


def test_forward_bits_do_not_depend_on_the_thread_count(threads) -> None:
    results = []
    for count in (1, 2, 5):
        threads(count)
        results.append(list(cpp_backend.aggregated_attention(*attention_arguments())))
    assert same(results[1], results[0])
    assert same(results[2], results[0])


@pytest.mark.parametrize("count", [2, 3, 70])  # the last: more threads than ranges of tasks
def test_every_task_is_done_once(threads, count: int) -> None:
    weight = torch.arange(100 * 48 * 8.0).view(-1, 8)  # a task for each 48 rows
    threads(1)
    expected = fused_blocks.pack_weight(weight, torch.float32).data
    threads(count)
    for _ in range(5):
        assert torch.equal(fused_blocks.pack_weight(weight, torch.float32).data, expected)


def test_several_python_threads_get_right_results(threads) -> None:
    threads(2)
    expected = everything()
    failures: list[object] = []

    def work() -> None:
        try:
            torch.set_num_threads(2)
            for _ in range(5):
                if not same(everything(), expected):
                    failures.append("other bits")
        except Exception as error:  # a thread's exception would be lost
            failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert not any(worker.is_alive() for worker in workers)
    assert not failures


def test_the_gil_is_released() -> None:
    """While a long call runs, other Python code makes progress."""
    x = torch.randn(4, 128 * 128, 64)
    weight = torch.randn(32, 1, 3, 3)
    done = threading.Event()
    counts = []

    def work() -> None:
        for _ in range(3):
            cpp_backend.conv_glu(x, weight, None, None, (128, 128))
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    ticks = 0
    while not done.is_set():
        time.sleep(0.0005)
        ticks += 1
    counts.append(ticks)
    worker.join()
    assert ticks > 3


def _in_child(queue) -> None:
    torch.set_num_threads(2)
    queue.put([tensor.numpy() for tensor in everything()])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_of_a_process_whose_pool_is_in_use(threads) -> None:
    threads(2)
    expected = everything()  # the parent's pool has workers now, which the child does not inherit
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_in_child, args=(queue,)) for _ in range(2)]
    for child in children:
        child.start()
    for _ in children:
        results = [torch.from_numpy(array) for array in queue.get(timeout=120)]
        assert same(results, expected)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert same(everything(), expected)


def test_idle_workers_use_no_processor_time(threads) -> None:
    threads(2)
    everything()
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.4)
    assert time.process_time() - before < 0.2


def test_memory_that_is_not_there_is_an_exception() -> None:
    """An allocation that fails inside a kernel, on any thread, comes back as MemoryError."""
    code = f"""
import importlib.util, resource
import numpy as np
spec = importlib.util.spec_from_file_location("_cpp", {_cpp.__file__!r})
_cpp = importlib.util.module_from_spec(spec)
spec.loader.exec_module(_cpp)
q, pooled, scale = np.ones((1, 2, 2, 16), "f4"), np.ones((1, 1, 2, 16), "f4"), np.ones(2, "f4")
out, log_sum_exp = np.empty((1, 2, 2, 16), "f4"), np.empty((1, 2, 2), "f4")
tensors = [q, q, q, pooled, pooled, scale] + [None] * 8 + [out, log_sum_exp]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)
try:
    capsules = [None if tensor is None else tensor.__dlpack__() for tensor in tensors]
    _cpp.aggregated_attention(*capsules, (1, 2), (1, 1), 4000, False, 2)
except MemoryError:
    print("MemoryError")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "MemoryError", result.stderr
