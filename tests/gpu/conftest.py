"""Tests that need an NVIDIA GPU: all are skipped where PyTorch sees none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import transnext_ops as ops
from strategies import numbers_on


@pytest.fixture(autouse=True)
def cuda() -> Iterator[torch.device]:
    """The current CUDA device, on which the test's numbers are made."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU that PyTorch sees")
    device = torch.device("cuda", torch.cuda.current_device())
    with numbers_on(device):
        yield device


@pytest.fixture(params=["cpp", "cupy"])
def backend(request) -> str:
    """A backend that has CUDA kernels here, or the reason why not."""
    try:
        with ops.use_backend(request.param):
            ops.gelu_pool(torch.zeros(1, 1, 8, device="cuda"), grid=(1, 1), pool_grid=(1, 1))
    except ops.BackendError as error:
        pytest.skip(str(error))
    return request.param
