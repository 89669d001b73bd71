"""gelu_pool probe"""
import pytest, torch
from emulated import EmulatedKernels
from transnext_ops.backends.launches import use_runner
import transnext_ops as ops
def test_probe(kernels):
    r=EmulatedKernels(kernels)
    x=torch.randn(2,30,33)
    a=ops.gelu_pool(x,grid=(5,6),pool_grid=(2,3),backend="cpp")
    with use_runner(r):
        b=ops.gelu_pool(x,grid=(5,6),pool_grid=(2,3),backend="cpp")
    torch.testing.assert_close(a,b)
    assert r.calls
