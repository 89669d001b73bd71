"""CUDA attention in the emulation: keys that a bias of minus infinity takes away from a query.

The kernels take pooled keys in groups of 16 (of 8 at the end) and offset a query's exponents by
what the first of them showed, so what matters is which groups a query does not see.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("transnext_ops._cpp")

from emulated import EmulatedKernels, Library

import transnext_ops as ops
from agreement import edge
from transnext_ops.backends.launches import use_runner

NEVER = float("-inf")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Of a query's 45 pooled keys, by its number: what it does not see.
UNSEEN = {
    0: slice(0, 16),
    7: slice(0, 17),
    12: slice(0, 32),
    18: slice(0, 44),
    22: slice(0, 45),  # what is left is its window
    30: slice(16, 45),
    44: slice(40, 45),
}


@pytest.mark.parametrize("window_size", [3, 0])
@pytest.mark.parametrize(
    ("capability", "dtype"),
    [*((80, dtype) for dtype in DTYPES), (75, torch.float16), (90, torch.float16)],
)
def test_groups_of_keys_a_query_does_not_see(
    kernels: Library, capability: int, dtype: torch.dtype, window_size: int
) -> None:
    case = edge(
        dtype=dtype, bias="dense", grid=(5, 9), pool_grid=(5, 9), batch=1, window_size=window_size
    )
    given: dict[str, Any] = case.tensors()
    unseen = {query: keys for query, keys in UNSEEN.items() if window_size or keys.stop < 45}
    for query, keys in unseen.items():
        given["pool_bias"][:, query, keys] = NEVER
    results = []
    for backend in ("cpp", "reference"):
        inputs = {
            name: given[name].detach().clone().requires_grad_()
            for name in ("q", "k", "v", "k_pool", "v_pool", "pool_bias")
            if given[name] is not None
        }
        call = {**given, **inputs, "grid": case.grid}
        with use_runner(EmulatedKernels(kernels, capability, case.seed)):
            if window_size:
                sizes = {"pool_grid": case.pool_grid, "window_size": window_size}
                out = ops.aggregated_attention(**call, **sizes, backend=backend)
            else:
                out = ops.global_attention(
                    call["q"], call["k_pool"], call["v_pool"], grid=case.grid,
                    scale=call["scale"], query_embedding=call["query_embedding"],
                    bias=call["pool_bias"], backend=backend,
                )  # fmt: skip
            gradients = torch.autograd.grad(out, tuple(inputs.values()), torch.ones_like(out))
        results.append((out.detach(), *gradients))
    unit = max(torch.finfo(dtype).eps, 1e-5)
    for actual, expected in zip(*results, strict=True):
        assert expected.isfinite().all()
        assert (actual - expected).abs().max() <= 16 * unit * expected.abs().max()
    of_biases = results[0][-1]
    for query, keys in unseen.items():
        assert not of_biases[:, query, keys].any()
